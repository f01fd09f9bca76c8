//! `buttress stats`.

mod document;
mod report;

use std::{
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use buttress_langfuse::{
    LangfuseClient, Observation, Statistics,
    client::{ClientError, ObservationQuery},
};

use crate::{
    args::StatsArgs,
    color::Color,
    period::{Since, shown},
    problem::Problem,
    spool,
    terminal::{self, Progress},
    text,
};

/// What was counted, and of what time.
#[derive(Debug)]
pub(crate) struct Counted {
    pub(crate) since: SystemTime,
    pub(crate) until: SystemTime,
    pub(crate) statistics: Statistics,
    /// Whether there are more observations than were read.
    pub(crate) is_cut: bool,
    /// The spool, where it was not Langfuse that was read.
    pub(crate) spool: Option<PathBuf>,
}

/// How far back Langfuse is read, unless something else is asked for.
const SINCE: Duration = Duration::from_secs(24 * 60 * 60);

pub(crate) async fn run(args: &StatsArgs, color: Color) -> Result<(), Problem> {
    let (since, until) = period(args)?;
    if let Some(folder) = &args.spool {
        return print(&spooled(folder, args, since, until)?, args, color);
    }
    let since = since.unwrap_or(SystemTime::UNIX_EPOCH);
    let client = client()?;
    let mut query = ObservationQuery::new().from(since).to(until);
    if let Some(environment) = &args.environment {
        query = query.environment(environment);
    }
    let (observations, is_cut) = read(&client, query, args.limit).await?;
    let statistics = Statistics::of(observations);
    print(&Counted { since, until, statistics, is_cut, spool: None }, args, color)
}

/// Counts what waits in a spool, all of it unless a period is asked for.
fn spooled(
    folder: &Path,
    args: &StatsArgs,
    since: Option<SystemTime>,
    until: SystemTime,
) -> Result<Counted, Problem> {
    let mut observations = spool::observations(folder)?;
    observations.retain(|one| {
        let environment = args.environment.as_deref();
        since.is_none_or(|since| one.start >= since)
            && one.start < until
            && (environment.is_none() || one.environment.as_deref() == environment)
    });
    let over = observations.len().saturating_sub(args.limit);
    observations.drain(..over);
    let since = since.or_else(|| Some(observations.first()?.start)).unwrap_or(until);
    let statistics = Statistics::of(observations);
    let spool = Some(folder.to_owned());
    Ok(Counted { since, until, statistics, is_cut: over > 0, spool })
}

/// Prints what was counted; that nothing was is a problem of its own.
pub(crate) fn print(counted: &Counted, args: &StatsArgs, color: Color) -> Result<(), Problem> {
    let is_empty = counted.statistics.is_empty();
    if args.json {
        terminal::print(&text::json(&document::of(counted, args.by)))?;
    } else if !is_empty {
        terminal::print(&report::of(counted, args.by, color))?;
    }
    if is_empty {
        return Err(Problem::Nothing(format!("no data: {}", missing(counted, args))));
    }
    Ok(())
}

/// Says what there is none of.
fn missing(counted: &Counted, args: &StatsArgs) -> String {
    let (since, until) = (shown(counted.since), shown(counted.until));
    let period = format!("from {since} to {until}; --since reads more");
    match &counted.spool {
        Some(folder) if args.since.is_none() && args.until.is_none() => {
            format!("no observations of buttress wait in {}", folder.display())
        }
        Some(folder) => {
            format!("no observations of buttress wait in {} {period}", folder.display())
        }
        None => format!("no observations of buttress {period}"),
    }
}

/// Connects to Langfuse, and tells why it is waited for.
pub(crate) fn client() -> Result<LangfuseClient, ClientError> {
    let client = LangfuseClient::from_env()?;
    let progress = Progress::new();
    Ok(client.on_wait(move |why| progress.show(why)))
}

fn period(args: &StatsArgs) -> Result<(Option<SystemTime>, SystemTime), Problem> {
    let now = SystemTime::now();
    let before = || Problem::Usage("--since lies before every clock".to_owned());
    let point = |since: Since| since.point(now).ok_or_else(before);
    let until = args.until.map_or(Ok(now), point)?;
    // What Langfuse has is read from some time on; what waits in a spool is all read.
    let usual = args.spool.is_none().then_some(Since::Ago(SINCE));
    let since = args.since.or(usual).map(point).transpose()?;
    if since.is_some_and(|since| since >= until) {
        return Err(Problem::Usage("--since must lie before --until".to_owned()));
    }
    Ok((since, until))
}

/// Reads a list, up to a limit, and says whether there is more.
async fn read(
    client: &LangfuseClient,
    query: ObservationQuery,
    limit: usize,
) -> Result<(Vec<Observation>, bool), Problem> {
    let progress = Progress::new();
    let mut pages = client.observations(query);
    let mut observations = Vec::new();
    while let Some(page) = pages.next().await? {
        observations.extend(page);
        progress.show(&format!("{} observations read", observations.len()));
        if observations.len() > limit {
            observations.truncate(limit);
            return Ok((observations, true));
        }
    }
    Ok((observations, false))
}
