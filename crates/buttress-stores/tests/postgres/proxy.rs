//! A way to the server that ends at a moment of the test's choice.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
    sync::watch,
};

/// Passes everything on, but for answers to `COMMIT` while some are to be lost, and for all of
/// connections that were dropped in silence.
pub(crate) struct Proxy {
    /// The port on 127.0.0.1.
    pub(crate) port: u16,
    /// How many answers are yet to be lost.
    pub(crate) to_lose: Arc<AtomicU32>,
    /// Passes nothing more on, on those that are there at each change.
    dropped: watch::Sender<()>,
}

impl Proxy {
    /// Starts one before a server on 127.0.0.1; it ends with the runtime.
    pub(crate) async fn before(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let to_lose = Arc::new(AtomicU32::new(0));
        let losing = to_lose.clone();
        let dropped = watch::Sender::new(());
        let dropping = dropped.clone();
        tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                let server = TcpStream::connect(("127.0.0.1", server)).await.unwrap();
                let (losing, mut dropped) = (losing.clone(), dropping.subscribe());
                tokio::spawn(async move {
                    let (mut client, mut server) = (client, server);
                    tokio::select! {
                        () = pass_on(&mut client, &mut server, losing) => {}
                        // Neither side hears of the end.
                        _ = dropped.changed() => std::future::pending().await,
                    }
                });
            }
        });
        Self { port, to_lose, dropped }
    }

    /// Passes nothing more on between the connections that are there, and keeps them open.
    pub(crate) fn drop_in_silence(&self) {
        self.dropped.send_replace(());
    }
}

async fn pass_on(client: &mut TcpStream, server: &mut TcpStream, to_lose: Arc<AtomicU32>) {
    let (mut from_client, mut to_client) = client.split();
    let (mut from_server, mut to_server) = server.split();
    loop {
        let lost = tokio::select! {
            said = step(&mut from_client, &mut to_server) => match said {
                Some(said) => said.windows(7).any(|word| word == b"COMMIT\0") && lose_one(&to_lose),
                None => return,
            },
            said = step(&mut from_server, &mut to_client) => match said {
                Some(_) => false,
                None => return,
            },
        };
        if lost {
            // The server has committed when it answers; nobody hears it.
            drop(from_server.read(&mut [0; 1024]).await);
            return;
        }
    }
}

fn lose_one(to_lose: &AtomicU32) -> bool {
    to_lose.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok()
}

/// Passes one piece on and returns it; none at the end of either side.
async fn step(from: &mut ReadHalf<'_>, to: &mut WriteHalf<'_>) -> Option<Vec<u8>> {
    let mut piece = vec![0; 64 << 10];
    let length = from.read(&mut piece).await.ok().filter(|length| *length > 0)?;
    piece.truncate(length);
    to.write_all(&piece).await.ok()?;
    Some(piece)
}
