//! A run from its start to its end: warms up, loads, watches, and looks at what is left.

use std::{
    io::{self, IsTerminal as _},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use buttress::BoxError;
use buttress_langfuse::{Durability, Langfuse, Stats};
use tokio::runtime::Runtime;
use tracing_subscriber::{layer::SubscriberExt as _, util::SubscriberInitExt as _};

use crate::{
    INTERRUPTED,
    args::Plan,
    checks::{self, Check},
    helper::Helper,
    load::{LoadPlan, Loaded},
    receiver::{Address, Arrived},
    server::{Server, Stack},
    watch::{Sample, Watch},
};

/// How often the process is looked at during the load.
const SAMPLES: u32 = 20;
/// How long the load warms up the server, before anything is noted: a second has calls of both routes
/// at every rate, so that the connections that they and delivery need are there.
pub(crate) const WARM_UP: Duration = Duration::from_secs(1);
/// How long connections may take to close after the load.
const CLOSING: Duration = Duration::from_secs(10);
/// How long Langfuse may take to receive what waits.
const FLUSHING: Duration = Duration::from_secs(60);

/// What a run has shown.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) interrupted: bool,
    pub(crate) loaded: Loaded,
    /// Failures that callers of `/guarded` saw, those of the warm-up included.
    pub(crate) failed_calls: Vec<u64>,
    /// What the process held after the warm-up.
    pub(crate) before: Sample,
    /// What it held during the load.
    pub(crate) samples: Vec<Sample>,
    /// What it held once every connection was closed.
    pub(crate) after: Sample,
    pub(crate) stack: Stack,
    pub(crate) stats: Stats,
    /// Why the shutdown of delivery did not succeed.
    pub(crate) undelivered: Option<String>,
    pub(crate) arrived: Arrived,
    pub(crate) checks: Vec<Check>,
}

/// The process that is watched, and what belongs to it.
struct Soak {
    server: Server,
    watch: Watch,
    interrupted: Arc<AtomicBool>,
    rps: u32,
    /// The number of the next call.
    next: u64,
    failed_calls: Vec<u64>,
}

/// Runs as planned, or until Ctrl-C.
pub(crate) fn run(plan: &Plan) -> Result<Outcome, BoxError> {
    let delay = plan.langfuse_delay.as_millis().to_string();
    let mut receiver = Helper::start(&["langfuse", &delay])?;
    let address: Address = receiver.wait_for()?;
    let langfuse = Langfuse::builder()
        .public_key(address.public_key)
        .secret_key(address.secret_key)
        .base_url(address.base_url)
        .service_name("soak")
        .durability(Durability::Memory)
        .start()?;
    tracing_subscriber::registry().with(langfuse.layer()).init();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let mut soak = Soak {
        server: Server::start(&runtime)?,
        watch: Watch::new(runtime.handle().clone(), langfuse.clone()),
        interrupted: watch_ctrl_c(&runtime),
        rps: plan.rps,
        next: 0,
        failed_calls: Vec::new(),
    };

    soak.load(WARM_UP, |_| ())?;
    langfuse.flush(FLUSHING)?;
    let before = soak.watch.wait_for_calm(CLOSING);
    let mut samples = Vec::new();
    let loaded = soak.load(plan.time, |sample| samples.push(sample))?;
    // Fails only with the shutdown, which says so again.
    drop(langfuse.flush(FLUSHING));
    let after = soak.watch.wait_for(&before, CLOSING);

    // To look at a circuit may end its open time, which is a span.
    let stack = soak.server.stack();
    let undelivered = langfuse.shutdown(FLUSHING).err().map(|error| error.to_string());
    let mut outcome = Outcome {
        interrupted: soak.interrupted.load(Ordering::Relaxed),
        loaded,
        failed_calls: soak.failed_calls,
        before,
        samples,
        after,
        stack,
        stats: langfuse.stats(),
        undelivered,
        arrived: receiver.ask("report")?,
        checks: Vec::new(),
    };
    outcome.checks = checks::all(&outcome);
    Ok(outcome)
}

/// Tells when somebody has pressed Ctrl-C; the second time ends the process at once.
fn watch_ctrl_c(runtime: &Runtime) -> Arc<AtomicBool> {
    let pressed = Arc::<AtomicBool>::default();
    let press = Arc::clone(&pressed);
    drop(runtime.spawn(async move {
        while tokio::signal::ctrl_c().await.is_ok() {
            if press.swap(true, Ordering::Relaxed) {
                end_now();
            }
        }
    }));
    pressed
}

#[expect(clippy::exit, reason = "the user has asked twice")]
fn end_now() -> ! {
    std::process::exit(INTERRUPTED.into())
}

// ===== impl Soak =====

impl Soak {
    /// Lets a process of its own make the load, and looks at this one meanwhile.
    fn load(&mut self, time: Duration, mut see: impl FnMut(Sample)) -> Result<Loaded, BoxError> {
        let plan = LoadPlan { address: self.server.address, rps: self.rps, time, first: self.next };
        let mut load = Helper::start(&["load", &serde_json::to_string(&plan)?])?;
        let start = self.watch.sample().seconds;
        let interval = time / SAMPLES;
        let mut taken = 0;
        let loaded: Loaded = loop {
            let due = start + (interval * (taken + 1)).as_secs_f64();
            let left = Duration::from_secs_f64((due - self.watch.sample().seconds).max(0.0));
            // Ctrl-C is to be noticed meanwhile.
            if let Some(loaded) = load.read(left.min(Duration::from_millis(200)))? {
                break loaded;
            }
            if self.interrupted.load(Ordering::Relaxed) {
                load.end();
            }
            let sample = self.watch.sample();
            if sample.seconds >= due && taken < SAMPLES {
                taken += 1;
                see(sample);
                tell(taken, &sample);
            }
        };
        self.next += loaded.guarded.due.max(loaded.bare.due);
        self.failed_calls.extend(&loaded.failed_calls);
        Ok(loaded)
    }
}

/// Shows a person that something happens.
fn tell(taken: u32, sample: &Sample) {
    if io::stderr().is_terminal() {
        let mib = sample.rss_kib.unwrap_or(0) >> 10;
        eprintln!("{taken}/{SAMPLES}: {mib} MiB, {} tasks", sample.tasks);
    }
}

impl Outcome {
    /// Tells whether everything holds that must.
    pub(crate) fn holds(&self) -> bool {
        self.checks.iter().all(|check| check.holds)
    }
}
