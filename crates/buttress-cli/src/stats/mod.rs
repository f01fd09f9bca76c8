//! `buttress stats`.

mod document;
mod report;

use std::time::SystemTime;

use buttress_langfuse::{
    LangfuseClient, Observation, Statistics,
    client::{ClientError, ObservationQuery},
};

use crate::{
    args::StatsArgs,
    color::Color,
    period::shown,
    problem::Problem,
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
}

pub(crate) async fn run(args: &StatsArgs, color: Color) -> Result<(), Problem> {
    let (since, until) = period(args)?;
    let client = client()?;
    let mut query = ObservationQuery::new().from(since).to(until);
    if let Some(environment) = &args.environment {
        query = query.environment(environment);
    }
    let (observations, is_cut) = read(&client, query, args.limit).await?;
    let statistics = Statistics::of(observations);
    print(&Counted { since, until, statistics, is_cut }, args, color)
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
        let (since, until) = (shown(counted.since), shown(counted.until));
        return Err(Problem::Nothing(format!(
            "no data: no observations of buttress from {since} to {until}; --since reads more"
        )));
    }
    Ok(())
}

/// Connects to Langfuse, and tells why it is waited for.
pub(crate) fn client() -> Result<LangfuseClient, ClientError> {
    let client = LangfuseClient::from_env()?;
    let progress = Progress::new();
    Ok(client.on_wait(move |why| progress.show(why)))
}

fn period(args: &StatsArgs) -> Result<(SystemTime, SystemTime), Problem> {
    let now = SystemTime::now();
    let since = args.since.point(now);
    let until = args.until.map_or(Some(now), |until| until.point(now));
    match since.zip(until) {
        Some((since, until)) if since < until => Ok((since, until)),
        Some(_) => Err(Problem::Usage("--since must lie before --until".to_owned())),
        None => Err(Problem::Usage("--since lies before every clock".to_owned())),
    }
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
