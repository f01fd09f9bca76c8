//! Which temporary files belong to a writer that is dead.

use std::{
    fmt::Write as _,
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use super::names::TEMPORARY;

/// After how long a file is nobody's whose writer cannot be asked after.
const ABANDONED: Duration = Duration::from_secs(60 * 60);

/// Returns a name that no other writer has: the boot, the process with the time it started at, so
/// that a process of the same number is told apart, and a count.
pub(super) fn temporary_name() -> String {
    static OWN: OnceLock<String> = OnceLock::new();
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let own = OWN.get_or_init(|| {
        let pid = std::process::id();
        let started = started(pid).unwrap_or_default();
        format!("{}-{pid}-{started}-{:08x}", boot().unwrap_or("0"), fastrand::u32(..))
    });
    let mut name = format!("{TEMPORARY}{own}");
    _ = write!(name, "-{count}");
    name
}

/// Returns whether the writer of a temporary file is dead.
///
/// One of this boot of this machine is asked after; of others only the age tells.
pub(super) fn is_dead(name: &str, age: Option<Duration>) -> bool {
    let mut parts = name.strip_prefix(TEMPORARY).unwrap_or_default().split('-');
    let (Some(writers_boot), Some(pid), Some(start)) = (parts.next(), parts.next(), parts.next())
    else {
        return false;
    };
    match (boot(), pid.parse()) {
        (Some(boot), Ok(pid)) if boot == writers_boot => {
            started(pid).is_none_or(|started| started.to_string() != start)
        }
        _ => age.is_some_and(|age| age > ABANDONED),
    }
}

/// Returns what tells this boot of this machine from others, and this container's processes from
/// those of another.
fn boot() -> Option<&'static str> {
    static BOOT: OnceLock<Option<String>> = OnceLock::new();
    BOOT.get_or_init(|| {
        let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
        let namespace = std::fs::read_link("/proc/self/ns/pid").ok()?;
        let boot = id.chars().filter(char::is_ascii_hexdigit).take(12);
        let own = namespace.to_str()?.chars().filter(char::is_ascii_digit);
        Some(boot.chain("n".chars()).chain(own.collect::<Vec<_>>()).collect())
    })
    .as_deref()
}

/// Returns when a process started, in ticks of the kernel; none where there is no such process.
///
/// Field 22 of proc(5)'s `stat`, counted behind the name, which may hold blanks and parentheses.
fn started(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_living_are_told_from_the_dead() {
        let own = temporary_name();
        assert!(!is_dead(&own, Some(Duration::MAX)));
        let of_before = own.replacen(&format!("-{}-", std::process::id()), "-4194305-", 1);
        assert!(is_dead(&of_before, None));
        let elsewhere = format!("{TEMPORARY}abc-1-2-3-4");
        assert!(!is_dead(&elsewhere, Some(Duration::from_secs(60))));
        assert!(is_dead(&elsewhere, Some(Duration::from_secs(3601))));
    }
}
