//! How a service ends: it is asked to, ends the calls that are under way, and delivers its traces.

use std::{io, time::Duration};

use buttress::BoxError;
use buttress_langfuse::Langfuse;
use tokio::sync::watch;

/// How long the calls that are under way are waited for: as long as one may take.
const CALLS: Duration = Duration::from_secs(10);
/// How long the last traces are waited for.
const TRACES: Duration = Duration::from_secs(5);

/// Whether the program has been asked to end, by SIGTERM where there is one, or by ctrl-c.
#[derive(Debug, Clone)]
pub struct Ending(watch::Receiver<bool>);

// ===== impl Ending =====

impl Ending {
    /// Listens from now on, so that a signal before the first call ends no process by itself.
    ///
    /// # Errors
    ///
    /// Fails where the system lets nobody listen to signals.
    ///
    /// # Panics
    ///
    /// Panics outside a runtime.
    pub fn listen() -> io::Result<Self> {
        let (begun, ending) = watch::channel(false);
        #[cfg(unix)]
        let asked = {
            use tokio::signal::unix::{SignalKind, signal};
            let mut interrupt = signal(SignalKind::interrupt())?;
            let mut terminate = signal(SignalKind::terminate())?;
            async move {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
            }
        };
        #[cfg(not(unix))]
        let asked = async { drop(tokio::signal::ctrl_c().await) };
        tokio::spawn(async move {
            asked.await;
            begun.send_replace(true);
        });
        Ok(Self(ending))
    }

    /// Waits until the program is asked to end.
    pub async fn begun(mut self) {
        // Who says so lives as long as the runtime.
        drop(self.0.wait_for(|begun| *begun).await);
    }

    /// Runs a server that takes nothing new after [`begun`](Self::begun), until its last call has ended.
    ///
    /// A caller that never sends the rest of its request, or never reads the answer, holds it up for 10 s;
    /// returns whether every call has ended by then.
    ///
    /// # Errors
    ///
    /// Those of the server.
    pub async fn drain<E>(
        self,
        server: impl Future<Output = Result<(), E>>,
    ) -> Result<bool, BoxError>
    where
        E: Into<BoxError>,
    {
        let over = async {
            self.begun().await;
            tokio::time::sleep(CALLS).await;
        };
        tokio::select! {
            ended = server => ended.map(|()| true).map_err(Into::into),
            () = over => Ok(false),
        }
    }
}

/// Delivers the last traces, on a thread of its own.
///
/// An outage of Langfuse is none of the service: what is not delivered waits on disk for the next
/// process, which the library says on stderr.
///
/// # Errors
///
/// Fails where the thread does.
pub async fn deliver(langfuse: Langfuse) -> Result<(), BoxError> {
    tokio::task::spawn_blocking(move || drop(langfuse.shutdown(TRACES))).await?;
    Ok(())
}
