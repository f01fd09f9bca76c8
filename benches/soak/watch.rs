//! What the process holds: memory, descriptors, tasks, spans that wait; and the time it computed.

use std::{
    fs,
    time::{Duration, Instant},
};

use buttress_langfuse::Langfuse;
use serde::Serialize;
use tokio::runtime::Handle;

/// How often the kernel counts processor time in a second, for programs.
const TICKS: f64 = 100.0;

/// Looks at this process.
#[derive(Debug)]
pub(crate) struct Watch {
    started: Instant,
    runtime: Handle,
    langfuse: Langfuse,
}

/// What the process held at one time; nothing where the system does not tell.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub(crate) struct Sample {
    pub(crate) seconds: f64,
    pub(crate) rss_kib: Option<u64>,
    pub(crate) descriptors: Option<u64>,
    pub(crate) tasks: u64,
    /// Spans that wait for delivery.
    pub(crate) waiting_spans: u64,
    pub(crate) cpu_seconds: Option<f64>,
}

// ===== impl Watch =====

impl Watch {
    #[expect(clippy::disallowed_methods, reason = "a measurement runs on real time")]
    pub(crate) fn new(runtime: Handle, langfuse: Langfuse) -> Self {
        Self { started: Instant::now(), runtime, langfuse }
    }

    pub(crate) fn sample(&self) -> Sample {
        Sample {
            seconds: self.started.elapsed().as_secs_f64(),
            rss_kib: rss_kib(),
            descriptors: descriptors(),
            tasks: self.runtime.metrics().num_alive_tasks() as u64,
            waiting_spans: self.langfuse.stats().pending,
            cpu_seconds: cpu_seconds(),
        }
    }

    /// Waits until no more tasks and descriptors are there than given, or the time is over.
    pub(crate) fn wait_for(&self, most: &Sample, time: Duration) -> Sample {
        self.wait_until(time, |now| now.tasks <= most.tasks && now.descriptors <= most.descriptors)
    }

    /// Waits until tasks and descriptors have not changed for a while, or the time is over.
    pub(crate) fn wait_for_calm(&self, time: Duration) -> Sample {
        let (mut held, mut since) = (self.sample(), 0);
        self.wait_until(time, |now| {
            let same = (now.tasks, now.descriptors) == (held.tasks, held.descriptors);
            since = if same { since + 1 } else { 0 };
            held = *now;
            since >= 10
        })
    }

    fn wait_until(&self, time: Duration, mut holds: impl FnMut(&Sample) -> bool) -> Sample {
        let end = self.started.elapsed() + time;
        loop {
            let now = self.sample();
            if holds(&now) || self.started.elapsed() >= end {
                return now;
            }
            pause(Duration::from_millis(50));
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "the thread is no runtime's")]
fn pause(time: Duration) {
    std::thread::sleep(time);
}

fn rss_kib() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().trim_end_matches(" kB").parse().ok()
}

fn descriptors() -> Option<u64> {
    // The one that reads the list is not counted.
    Some(fs::read_dir("/proc/self/fd").ok()?.count() as u64 - 1)
}

/// Reads the user's and the system's time, the 14th and 15th of the fields; the second may hold
/// blanks, and ends at a bracket.
fn cpu_seconds() -> Option<f64> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    let (_, fields) = stat.rsplit_once(')')?;
    let ticks = fields.split_whitespace().skip(11).take(2).map(str::parse::<u32>);
    Some(f64::from(ticks.sum::<Result<u32, _>>().ok()?) / TICKS)
}
