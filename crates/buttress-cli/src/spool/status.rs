//! `status`.

use std::{
    fmt::Write as _,
    path::Path,
    time::{Duration, SystemTime},
};

use buttress_langfuse::backlog::{Backlog, Destination, Refused, Writer};

use super::{amount, counted, document, named};
use crate::{
    color::Color,
    period::{shown, span},
    problem::Problem,
    table::{Side, Table, WIDTH},
    terminal,
    text::{self, cut, escaped},
};

/// How many of the spans that were refused a person is shown.
const REFUSED: usize = 10;

pub(super) fn run(folder: &Path, json: bool, color: Color) -> Result<(), Problem> {
    let backlog = Backlog::read(folder)?;
    let is_empty = backlog.is_empty();
    if json {
        terminal::print(&text::json(&document::status(&backlog)))?;
    } else if !is_empty {
        terminal::print(&report(&backlog, SystemTime::now(), color))?;
    }
    if is_empty {
        return Err(Problem::Nothing(format!("nothing waits in {}", folder.display())));
    }
    Ok(())
}

fn report(backlog: &Backlog, now: SystemTime, color: Color) -> String {
    let mut text = line(&format!("spool {}", backlog.folder.display()), 0);
    for destination in backlog.destinations.iter().filter(|destination| !destination.is_empty()) {
        let name = cut(&escaped(&named(destination)), WIDTH);
        _ = writeln!(text, "\n{}", color.bold(&name));
        text.push_str(&of_destination(destination, now));
    }
    text
}

fn of_destination(destination: &Destination, now: SystemTime) -> String {
    let mut text = line(&format!("waiting: {}", amount(destination.waiting())), 2);
    let damaged = destination.damaged();
    if damaged > 0 {
        let places = counted(damaged, "place", "places");
        text.push_str(&line(&format!("damaged: {places}, of which nothing can be read"), 2));
    }
    if !destination.writers.is_empty() {
        text.push('\n');
        text.push_str(&writers(&destination.writers, now));
    }
    if !destination.refused.is_empty() {
        text.push('\n');
        text.push_str(&refused(&destination.refused));
    }
    text
}

fn writers(writers: &[Writer], now: SystemTime) -> String {
    let mut table = Table::new([
        ("PROCESS", Side::Right),
        ("STATE", Side::Left),
        ("EVENTFUL", Side::Right),
        ("OTHERS", Side::Right),
        ("SCORES", Side::Right),
        ("OPEN", Side::Right),
        ("BYTES", Side::Right),
        ("OLDEST", Side::Right),
        ("NEWEST", Side::Right),
    ]);
    for writer in writers {
        let waiting = writer.waiting();
        table.row([
            writer.pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string()),
            if writer.is_alive { "alive" } else { "ended" }.to_owned(),
            writer.eventful.spans.to_string(),
            writer.uneventful.spans.to_string(),
            waiting.scores.to_string(),
            waiting.starts.to_string(),
            waiting.bytes.to_string(),
            age(writer.oldest, now),
            age(writer.newest, now),
        ]);
    }
    table.render(2)
}

/// Writes how long ago something was.
fn age(then: Option<SystemTime>, now: SystemTime) -> String {
    let age = |then| span(now.duration_since(then).unwrap_or(Duration::ZERO)).replace(' ', "");
    then.map_or_else(|| "-".to_owned(), age)
}

/// Shows the newest of what was refused.
fn refused(all: &[Refused]) -> String {
    let spans = counted(all.len() as u64, "span", "spans");
    let mut text = line(&format!("refused for good: {spans}"), 2);
    let mut table =
        Table::new([("TIME", Side::Left), ("SPAN", Side::Text), ("LANGFUSE SAID", Side::Text)]);
    for one in all.iter().rev().take(REFUSED) {
        let name = one.name.clone().unwrap_or_else(|| "-".to_owned());
        table.row([one.at.map_or_else(|| "-".to_owned(), shown), name, one.words.clone()]);
    }
    text.push_str(&table.render(2));
    if let Some(more @ 1..) = all.len().checked_sub(REFUSED) {
        text.push_str(&line(&format!("and {more} before them, which --json shows"), 2));
    }
    text
}

fn line(text: &str, indent: usize) -> String {
    format!("{:indent$}{}\n", "", cut(&escaped(text), WIDTH - indent))
}
