//! Live progress on stderr: what the layers of each agent are doing, as they do it.
//!
//! A small `tracing` layer listens to the same spans and log lines that become the trace. On a
//! terminal it redraws one line per analyst; elsewhere, and where escape codes are not wanted, it
//! writes one line per event.

use std::{
    fmt,
    io::{self, Write as _},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use buttress::telemetry;
use tokio::time::Instant;
use tracing::{
    Event, Subscriber,
    field::{Field, Visit},
    span::{Attributes, Id, Record},
};
use tracing_subscriber::{
    Layer,
    layer::Context,
    registry::{LookupSpan, SpanRef},
};

use crate::{
    analysts::Analyst,
    style::{Paint, Style},
    text::printable,
};

/// What is known about the run so far, and where to show it.
#[derive(Debug, Clone)]
pub(crate) struct Progress(Arc<Mutex<Board>>);

#[derive(Debug)]
struct Board {
    started: Instant,
    style: Style,
    in_place: bool,
    /// How wide the terminal is, where that is known.
    width: Option<usize>,
    rows: Vec<Row>,
    /// The node of the graph that runs.
    node: String,
    /// Circuits that are not closed, with their state.
    circuits: Vec<(String, String)>,
    /// How many lines are on the terminal from the last time.
    drawn: usize,
}

#[derive(Debug)]
struct Row {
    analyst: Analyst,
    state: State,
    calls: u32,
    retries: u32,
    fell_back: bool,
    note: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    Waiting,
    Asking(String),
    Done(Duration),
    Failed(Duration),
    /// By an interruption.
    Stopped(Duration),
    /// What it came to was kept by a run before.
    Kept,
}

/// Which row of the board a span belongs to.
#[derive(Debug, Clone, Copy)]
struct Place {
    row: usize,
    is_agent: bool,
    is_memo: bool,
}

// ===== impl Progress =====

impl Progress {
    /// Shows the progress on stderr.
    pub(crate) fn on_stderr() -> Self {
        let rows = Analyst::ALL.map(Row::new).into();
        let style = Style::of(&io::stderr());
        Self(Arc::new(Mutex::new(Board {
            started: Instant::now(),
            style,
            in_place: style.is_coloured(),
            width: std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok()),
            rows,
            node: String::new(),
            circuits: Vec::new(),
            drawn: 0,
        })))
    }

    /// Shows that a circuit has changed its state.
    pub(crate) fn circuit(&self, name: &str, state: &impl fmt::Display) {
        let state = state.to_string();
        let mut board = self.board();
        board.circuits.retain(|(known, _)| known != name);
        board.say(None, &format!("circuit {name} is {state}"));
        if state != "closed" {
            board.circuits.push((name.to_owned(), state));
        }
        board.draw();
    }

    /// Shows that a node has begun.
    fn node(&self, name: &str) {
        let mut board = self.board();
        board.say(None, &format!("node {name}"));
        board.node = printable(name);
        board.draw();
    }

    fn board(&self) -> MutexGuard<'_, Board> {
        // A poisoned board is only a picture that is half drawn.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn update(&self, row: usize, change: impl FnOnce(&mut Row, Duration)) {
        let mut board = self.board();
        let elapsed = board.started.elapsed();
        if let Some(row) = board.rows.get_mut(row) {
            change(row, elapsed);
        }
        board.draw();
    }

    fn say(&self, row: Option<usize>, line: &str) {
        self.board().say(row, line);
    }
}

impl<S> Layer<S> for Progress
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let Some(span) = context.span(id).filter(is_ours) else { return };
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        if let (telemetry::span::NODE, Some(name)) = (span.name(), &fields.phase) {
            self.node(name);
        }
        let place = match span.name() {
            telemetry::span::AGENT => place_of(&fields, true, false),
            telemetry::span::LOAD_CHECKPOINT => place_of(&fields, false, true),
            _ => place_above(&span),
        };
        let Some(place) = place else { return };
        span.extensions_mut().insert(place);
        self.started(span.name(), place.row, &fields);
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        let Some(span) = context.span(id).filter(is_ours) else { return };
        let Some(place) = span.extensions().get::<Place>().copied() else { return };
        let mut fields = Fields::default();
        values.record(&mut fields);
        match fields.outcome {
            Some(outcome) if place.is_agent => self.ended(place.row, &outcome),
            Some(outcome) if place.is_memo && outcome == telemetry::outcome::SUCCESS => {
                self.kept(place.row);
            }
            _ => {}
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        if event.metadata().target() != telemetry::LOG_TARGET {
            return;
        }
        let mut fields = Fields::default();
        event.record(&mut fields);
        let Some(message) = fields.message else { return };
        // That all is well with the checkpoints is no news.
        if context.event_span(event).is_some_and(|span| is_of_a_checkpoint(span.name()))
            && *event.metadata().level() > tracing::Level::WARN
        {
            return;
        }
        let place = context.event_span(event).and_then(|span| place_here(&span));
        if let Some(place) = place {
            self.update(place.row, |row, _| row.note = printable(&message));
        }
        self.say(place.map(|place| place.row), &message);
    }
}

impl Progress {
    fn started(&self, span: &str, row: usize, fields: &Fields) {
        match span {
            telemetry::span::LLM_CALL => {
                let model = fields.model.clone().unwrap_or_default();
                self.say(Some(row), &format!("asks {model}"));
                self.update(row, |row, _| {
                    row.calls += 1;
                    row.state = State::Asking(model);
                });
            }
            telemetry::span::RETRY_ATTEMPT if fields.attempt > Some(1) => {
                self.update(row, |row, _| row.retries += 1);
            }
            telemetry::span::FALLBACK_ATTEMPT if fields.agent_index > Some(0) => {
                self.update(row, |row, _| row.fell_back = true);
            }
            _ => {}
        }
    }

    fn ended(&self, row: usize, outcome: &str) {
        self.update(row, |row, elapsed| {
            row.state = match outcome {
                telemetry::outcome::SUCCESS => State::Done(elapsed),
                telemetry::outcome::CANCELLED => State::Stopped(elapsed),
                _ => State::Failed(elapsed),
            };
        });
        self.sum_up(row);
    }

    fn kept(&self, row: usize) {
        self.update(row, |row, _| row.state = State::Kept);
        self.sum_up(row);
    }

    fn sum_up(&self, row: usize) {
        let board = self.board();
        let summary = board.rows[row].to_string();
        board.say(Some(row), &summary);
    }
}

fn is_of_a_checkpoint(span: &str) -> bool {
    use telemetry::span::{LOAD_CHECKPOINT, RESUME_FROM_CHECKPOINT, SAVE_CHECKPOINT};
    [LOAD_CHECKPOINT, RESUME_FROM_CHECKPOINT, SAVE_CHECKPOINT].contains(&span)
}

fn is_ours<'a, S: LookupSpan<'a>>(span: &SpanRef<'a, S>) -> bool {
    span.metadata().target() == telemetry::TARGET
}

fn place_of(fields: &Fields, is_agent: bool, is_memo: bool) -> Option<Place> {
    let id = fields.agent_id.as_deref()?;
    let row = Analyst::ALL.iter().position(|analyst| analyst.name() == id)?;
    Some(Place { row, is_agent, is_memo })
}

/// Finds the row of the agent above a span that is not an agent itself.
fn place_above<'a, S: LookupSpan<'a>>(span: &SpanRef<'a, S>) -> Option<Place> {
    span.parent().and_then(|parent| place_here(&parent))
}

fn place_here<'a, S: LookupSpan<'a>>(span: &SpanRef<'a, S>) -> Option<Place> {
    span.scope().find_map(|span| span.extensions().get::<Place>().copied()).map(|place| Place {
        is_agent: false,
        is_memo: false,
        ..place
    })
}

// ===== impl Board =====

impl Board {
    /// Writes a line where lines stay; on a terminal the rows show the same.
    fn say(&self, row: Option<usize>, line: &str) {
        if self.in_place {
            return;
        }
        let who = row.and_then(|row| self.rows.get(row)).map(|row| row.analyst.name());
        let seconds = self.started.elapsed().as_secs_f64();
        let who = who.map(|who| format!("{who}: ")).unwrap_or_default();
        // Progress that nobody can read is no reason to stop.
        writeln!(io::stderr(), "{seconds:6.2}s  {who}{}", printable(line)).ok();
    }

    /// Redraws the rows on a terminal.
    fn draw(&mut self) {
        if !self.in_place {
            return;
        }
        // Without wrapping each row stays one line also where the width is not known.
        let mut text = String::from("\x1b[?7l");
        if self.drawn > 0 {
            text.push_str(&format!("\x1b[{}A", self.drawn));
        }
        for row in &self.rows {
            text.push_str(&format!("\r\x1b[2K{}\n", row.show(self.style, self.width)));
        }
        let circuits: Vec<_> =
            self.circuits.iter().map(|(name, state)| format!("{name} {state}")).collect();
        let breaker = if circuits.is_empty() { "closed".to_owned() } else { circuits.join(", ") };
        let paint = if circuits.is_empty() { Paint::Dim } else { Paint::Red };
        let pieces = [
            (Paint::Plain, format!("node: {}, ", self.node)),
            (paint, format!("circuits: {breaker}")),
        ];
        let last = cut(&pieces, self.width, self.style);
        text.push_str(&format!("\r\x1b[2K{last}\n"));
        text.push_str("\x1b[?7h");
        self.drawn = self.rows.len() + 1;
        io::stderr().write_all(text.as_bytes()).ok();
    }
}

// ===== impl Row =====

impl Row {
    fn new(analyst: Analyst) -> Self {
        Self {
            analyst,
            state: State::Waiting,
            calls: 0,
            retries: 0,
            fell_back: false,
            note: String::new(),
        }
    }

    fn show(&self, style: Style, width: Option<usize>) -> String {
        let (paint, mark) = match &self.state {
            State::Waiting => (Paint::Dim, ' '),
            State::Asking(_) => (Paint::Plain, '>'),
            State::Done(_) => (Paint::Green, '+'),
            State::Failed(_) => (Paint::Red, 'x'),
            State::Stopped(_) => (Paint::Yellow, '-'),
            State::Kept => (Paint::Green, '='),
        };
        let note = match self.state {
            State::Done(_) | State::Kept => "",
            _ => &self.note,
        };
        let pieces = [
            (paint, mark.to_string()),
            (Paint::Plain, format!(" {:<12} ", self.analyst)),
            (paint, self.to_string()),
            (Paint::Dim, if note.is_empty() { String::new() } else { format!("  {note}") }),
        ];
        cut(&pieces, width, style)
    }
}

/// Paints a line, as much of it as the terminal is wide.
fn cut(pieces: &[(Paint, String)], width: Option<usize>, style: Style) -> String {
    let mut left = width.unwrap_or(usize::MAX);
    let mut line = String::new();
    for (paint, text) in pieces {
        let text: String = text.chars().take(left).collect();
        left -= text.chars().count();
        line.push_str(&style.paint(*paint, text));
    }
    line
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.state {
            State::Waiting => f.write_str("waits")?,
            State::Asking(model) => write!(f, "asks {model}")?,
            State::Done(elapsed) => write!(f, "done after {:.1} s", elapsed.as_secs_f64())?,
            State::Failed(elapsed) => write!(f, "failed after {:.1} s", elapsed.as_secs_f64())?,
            State::Stopped(elapsed) => write!(f, "stopped after {:.1} s", elapsed.as_secs_f64())?,
            State::Kept => f.write_str("kept from before")?,
        }
        if self.calls > 0 {
            write!(f, ", {} call{}", self.calls, plural(self.calls))?;
        }
        match self.retries {
            0 => {}
            1 => f.write_str(", 1 retry")?,
            retries => write!(f, ", {retries} retries")?,
        }
        if self.fell_back { f.write_str(", fallback") } else { Ok(()) }
    }
}

const fn plural(count: u32) -> &'static str {
    if count == 1 { "" } else { "s" }
}

/// The fields that progress looks at.
#[derive(Debug, Default)]
struct Fields {
    agent_id: Option<String>,
    /// The node, on the span of one.
    phase: Option<String>,
    model: Option<String>,
    outcome: Option<String>,
    message: Option<String>,
    attempt: Option<i64>,
    agent_index: Option<i64>,
}

impl Visit for Fields {
    fn record_i64(&mut self, field: &Field, value: i64) {
        match field.name() {
            "attempt" => self.attempt = Some(value),
            "agent_index" => self.agent_index = Some(value),
            _ => {}
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        let slot = match field.name() {
            telemetry::key::AGENT_ID => &mut self.agent_id,
            "phase" => &mut self.phase,
            "gen_ai.request.model" => &mut self.model,
            telemetry::key::OUTCOME => &mut self.outcome,
            "message" => &mut self.message,
            _ => return,
        };
        *slot = Some(value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            self.message = Some(format!("{value:?}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_no_wider_than_the_terminal() {
        let mut row = Row::new(Analyst::Seasonality);
        row.state = State::Asking("embedded-large".to_owned());
        row.note = "Attempt 1 failed, retrying in 0.04s".to_owned();
        let plain = Style::default();
        let whole = row.show(plain, None);
        assert_eq!(
            whole,
            "> seasonality  asks embedded-large  Attempt 1 failed, retrying in 0.04s"
        );
        for width in 0..whole.len() {
            assert_eq!(row.show(plain, Some(width)), whole[..width]);
        }
    }
}
