//! `replay`.

use std::{
    env,
    fmt::Write as _,
    path::Path,
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::Duration,
};

use buttress_langfuse::{
    Durability, FlushError, Langfuse, LangfuseBuilder, Stats,
    backlog::{Backlog, Destination, Waiting},
    client::ClientError,
};
use serde_json::{Value as Json, json};

use super::{ReplayArgs, amount, counted, document};
use crate::{
    color::Color,
    problem::Problem,
    table::{Side, Table, WIDTH},
    terminal::{self, Progress},
    text::{self, cut, escaped},
};

/// How often progress is shown.
const TICK: Duration = Duration::from_millis(200);
/// How long delivery has to end when nothing is left for it to do.
const END: Duration = Duration::from_secs(2);
/// These switch off the traces of a program, of which there are none here.
const SWITCHES: [&str; 2] = ["LANGFUSE_TRACING_ENABLED", "OTEL_SDK_DISABLED"];

/// What became of what waited.
struct Outcome<'a> {
    folder: &'a Path,
    base_url: String,
    stats: Stats,
    result: Result<(), FlushError>,
    after: Backlog,
    builder: LangfuseBuilder,
}

pub(super) fn run(folder: &Path, args: &ReplayArgs, color: Color) -> Result<(), Problem> {
    let vars = |name: &str| (!SWITCHES.contains(&name)).then(|| env::var(name).ok()).flatten();
    let builder = Langfuse::from_vars(vars).map_err(ClientError::from)?;
    let builder = builder.spool(folder).durability(Durability::Process);
    // Says which of the keys or the address is missing or wrong.
    let base_url = builder.clone().client()?.base_url().to_owned();
    let before = Backlog::read(folder)?;
    let has_left = before.destination_of(&builder).is_some_and(|one| !one.left().is_empty());
    let (stats, result) =
        if has_left { deliver(&builder, args.timeout)? } else { (Stats::default(), Ok(())) };
    let after = if has_left { Backlog::read(folder)? } else { before };
    let outcome = Outcome { folder, base_url, stats, result, after, builder };
    if args.json {
        terminal::print(&text::json(&outcome.document()))?;
    } else {
        terminal::print(&outcome.report(color))?;
    }
    outcome.verdict(args.timeout)
}

/// Takes over what was left, and delivers it.
fn deliver(
    builder: &LangfuseBuilder,
    timeout: Duration,
) -> Result<(Stats, Result<(), FlushError>), Problem> {
    let start = builder.clone().start();
    let langfuse = start.map_err(|error| Problem::Failed(error.to_string()))?;
    let progress = Progress::new();
    let (send, done) = mpsc::channel();
    let result = thread::scope(|scope| {
        scope.spawn(|| send.send(langfuse.recover(timeout)));
        loop {
            match done.recv_timeout(TICK) {
                Ok(result) => break result,
                Err(RecvTimeoutError::Disconnected) => break Err(FlushError::Closed),
                Err(RecvTimeoutError::Timeout) => progress.show(&so_far(langfuse.stats())),
            }
        }
    });
    let stats = langfuse.stats();
    // What it has not delivered it leaves where it is.
    langfuse.shutdown(END).ok();
    Ok((stats, result))
}

fn so_far(stats: Stats) -> String {
    let done = stats.recovered + stats.scores_recovered + stats.refused + stats.scores_refused;
    format!("delivering: {done} of {}", done + stats.to_recover)
}

// ===== impl Outcome =====

impl Outcome<'_> {
    fn own(&self) -> Option<&Destination> {
        self.after.destination_of(&self.builder)
    }

    /// What ended processes have left that still waits.
    fn left(&self) -> Waiting {
        self.own().map(Destination::left).unwrap_or_default()
    }

    /// How many living processes have something in the spool, and how much.
    fn in_use(&self) -> (u64, Waiting) {
        let writers = self.own().map(|own| own.writers.as_slice()).unwrap_or_default();
        let living = writers.iter().filter(|one| one.is_alive && !one.waiting().is_empty());
        living
            .fold((0, Waiting::default()), |(count, sum), one| (count + 1, sum.and(one.waiting())))
    }

    /// What waits for others.
    fn others(&self) -> impl Iterator<Item = &Destination> {
        let own = self.own().map(|own| &own.folder);
        let others = self.after.destinations.iter();
        others.filter(move |one| Some(&one.folder) != own && !one.waiting().is_empty())
    }

    const fn refused(&self) -> u64 {
        self.stats.refused + self.stats.scores_refused
    }

    fn delivered(&self) -> Waiting {
        let mut delivered = Waiting::default();
        (delivered.spans, delivered.scores) = (self.stats.recovered, self.stats.scores_recovered);
        delivered
    }

    fn report(&self, color: Color) -> String {
        let mut text = String::new();
        let mut line = |name: &str, what: &str| {
            _ = writeln!(text, "{}", cut(&escaped(&format!("{name:11}{what}")), WIDTH));
        };
        line("langfuse", &self.base_url);
        line("delivered", &amount(self.delivered()));
        line("left", &amount(self.left()));
        if self.refused() > 0 {
            let refused = counted(self.refused(), "record", "records");
            line("refused", &format!("{refused} for good, see `buttress spool status`"));
        }
        if self.stats.damaged > 0 {
            line("damaged", &counted(self.stats.damaged, "place", "places"));
        }
        let (living, waiting) = self.in_use();
        if living > 0 {
            let living = counted(living, "living process", "living processes");
            line("in use", &format!("{} ({living})", amount(waiting)));
        }
        if self.others().next().is_some() {
            text.push_str(&self.table_of_others(color));
        }
        text
    }

    fn table_of_others(&self, color: Color) -> String {
        let mut table = Table::new([
            ("LANGFUSE", Side::Text),
            ("PUBLIC KEY", Side::Text),
            ("WAITING", Side::Text),
        ]);
        for other in self.others() {
            let text = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
            let waiting = amount(other.waiting());
            table.row([text(&other.base_url), text(&other.public_key), waiting]);
        }
        let head = color.bold("Not for the configured address and key");
        format!("\n{head}\n{}", table.render(2))
    }

    fn document(&self) -> Json {
        let (living, in_use) = self.in_use();
        json!({
            "spool": self.folder.display().to_string(),
            "base_url": self.base_url,
            "delivered": {
                "spans": self.stats.recovered, "scores": self.stats.scores_recovered,
            },
            "refused": self.refused(),
            "damaged": self.stats.damaged,
            "left": document::waiting(self.left()),
            "reason": self.result.as_ref().err().map(reason),
            "in_use": document::waiting(in_use),
            "living": living,
            "others": self.others().map(document::named).collect::<Json>(),
        })
    }

    /// Says whether all is delivered, and why not.
    fn verdict(&self, timeout: Duration) -> Result<(), Problem> {
        let (left, folder) = (amount(self.left()), self.folder.display());
        match &self.result {
            Err(FlushError::Misconfigured { reason, .. }) => {
                return Err(Problem::Settings(format!(
                    "{reason}; check LANGFUSE_PUBLIC_KEY, LANGFUSE_SECRET_KEY and \
                     LANGFUSE_BASE_URL; {left} kept in {folder}"
                )));
            }
            Err(error) => {
                let timeout = humantime::format_duration(timeout);
                let reason = reason(error);
                return Err(Problem::Failed(format!(
                    "{left} not delivered after {timeout} and kept in {folder}: {reason}"
                )));
            }
            Ok(()) => {}
        }
        if !self.left().is_empty() {
            return Err(Problem::Failed(format!(
                "{left} not delivered and kept in {folder}; run it again"
            )));
        }
        if self.refused() > 0 {
            let refused = counted(self.refused(), "record", "records");
            return Err(Problem::Failed(format!("Langfuse refuses {refused} for good")));
        }
        if self.delivered().is_empty() {
            let base_url = &self.base_url;
            return Err(Problem::Nothing(format!(
                "nothing to deliver to {base_url} with these keys in {folder}"
            )));
        }
        Ok(())
    }
}

/// Says why something is left, without how much.
fn reason(error: &FlushError) -> String {
    match error {
        FlushError::Undelivered { reason, .. } | FlushError::Misconfigured { reason, .. } => {
            reason.clone()
        }
        FlushError::TimedOut { .. } => "the time was over".to_owned(),
        error => error.to_string(),
    }
}
