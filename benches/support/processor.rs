//! Processor time, as the kernel counts it.

use std::time::Duration;

/// Returns the processor time of all threads of this process, those that have ended included;
/// nothing where the system does not tell.
///
/// Those of other processes, such as the server that takes spans, are not in it.
#[must_use]
pub fn time() -> Option<Duration> {
    #[cfg(unix)]
    return Some(read(rustix::time::ClockId::ProcessCPUTime));
    #[cfg(not(unix))]
    None
}

/// Returns the processor time of this thread.
#[must_use]
pub fn time_of_this_thread() -> Option<Duration> {
    #[cfg(unix)]
    return Some(read(rustix::time::ClockId::ThreadCPUTime));
    #[cfg(not(unix))]
    None
}

#[cfg(unix)]
fn read(clock: rustix::time::ClockId) -> Duration {
    let time = rustix::time::clock_gettime(clock);
    let (seconds, nanos) = (u64::try_from(time.tv_sec), u32::try_from(time.tv_nsec));
    Duration::new(seconds.unwrap_or_default(), nanos.unwrap_or_default())
}
