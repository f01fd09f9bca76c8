//! What is read, each time from one moment of the file.

use buttress::{
    Checkpoint, CheckpointKey, Namespace, WorkflowId,
    checkpoint::{Metadata, Page, Query},
};
use rusqlite::{Connection, params, params_from_iter};

use super::{
    error::Problem,
    row::{self, Number},
};

/// What was read, and what was left out because it cannot be read.
pub(super) struct Found<T> {
    pub(super) value: T,
    pub(super) warnings: Vec<Warning>,
}

/// What cannot be read, and what is answered instead.
pub(super) struct Warning {
    pub(super) key: CheckpointKey,
    pub(super) sequence: Option<u64>,
    pub(super) problem: Problem,
}

type Answer<T> = Result<Found<T>, Problem>;

impl<T> From<T> for Found<T> {
    fn from(value: T) -> Self {
        Self { value, warnings: Vec::new() }
    }
}

pub(super) fn latest(tx: &Connection, key: &CheckpointKey) -> Answer<Option<Checkpoint>> {
    match head(tx, key) {
        // Nobody wrote the chain, or its row was damaged so that it is not found.
        Ok(None) if row_is_missing(tx, key)? => match newest_whole(tx, key) {
            Ok(None) => Ok(None.into()),
            found => instead(key, None, found, Problem::corrupt("the row of the chain is missing")),
        },
        Ok(found) => Ok(found.into()),
        Err((sequence, problem)) if problem.is_corrupt() => {
            instead(key, sequence, newest_whole(tx, key), problem)
        }
        Err((_, problem)) => Err(problem),
    }
}

/// Answers something older for a head that is damaged.
fn instead(
    key: &CheckpointKey,
    sequence: Option<u64>,
    older: Result<Option<Checkpoint>, Problem>,
    problem: Problem,
) -> Answer<Option<Checkpoint>> {
    match older {
        Ok(Some(found)) => {
            let warnings = vec![Warning { key: key.clone(), sequence, problem }];
            Ok(Found { value: Some(found), warnings })
        }
        Ok(None) | Err(_) => Err(problem),
    }
}

/// Reads the head as the row of the chain names it.
fn head(
    tx: &Connection,
    key: &CheckpointKey,
) -> Result<Option<Checkpoint>, (Option<u64>, Problem)> {
    let chain = row::chain(tx, key).map_err(|problem| (None, problem))?;
    let Some(sequence) = chain.and_then(|chain| chain.state.head) else { return Ok(None) };
    match one(tx, key, sequence) {
        Ok(Some(found)) => Ok(Some(found)),
        Ok(None) => Err((Some(sequence), Problem::corrupt("the newest checkpoint is missing"))),
        Err(problem) => Err((Some(sequence), problem)),
    }
}

fn row_is_missing(tx: &Connection, key: &CheckpointKey) -> Result<bool, Problem> {
    Ok(row::chain(tx, key)?.is_none())
}

/// Returns the newest checkpoint that can be read; none where there is no checkpoint at all.
pub(super) fn newest_whole(
    tx: &Connection,
    key: &CheckpointKey,
) -> Result<Option<Checkpoint>, Problem> {
    let mut damaged = None;
    let sql = "SELECT sequence FROM records WHERE workflow = ?1 AND namespace = ?2
        ORDER BY sequence DESC";
    let mut statement = tx.prepare_cached(sql)?;
    let mut rows = statement.query(row::of(key))?;
    while let Some(found) = rows.next()? {
        match one(tx, key, row::number(found, 0)?) {
            Ok(Some(found)) => return Ok(Some(found)),
            Ok(None) => {}
            Err(problem) => damaged = damaged.or(Some(problem)),
        }
    }
    damaged.map_or(Ok(None), Err)
}

/// Reads one checkpoint with its writes.
fn one(tx: &Connection, key: &CheckpointKey, sequence: u64) -> Result<Option<Checkpoint>, Problem> {
    let sql = format!(
        "SELECT {} FROM records WHERE workflow = ?1 AND namespace = ?2 AND sequence = ?3",
        row::RECORD
    );
    let [workflow, namespace] = row::of(key);
    let mut statement = tx.prepare_cached(&sql)?;
    let mut rows = statement.query(params![workflow, namespace, Number(sequence)])?;
    let Some(found) = rows.next()? else { return Ok(None) };
    let found = row::record(key, found)?;
    // A tree that is out of order may answer a neighbour.
    if found.sequence != sequence {
        return Err(Problem::corrupt(format!("checkpoint {sequence} is not where it should be")));
    }
    whole(tx, found).map(Some)
}

fn whole(tx: &Connection, mut found: Checkpoint) -> Result<Checkpoint, Problem> {
    found.writes = row::writes(tx, &found.key, found.sequence)?;
    Ok(found)
}

pub(super) fn get(
    tx: &Connection,
    key: &CheckpointKey,
    sequence: u64,
) -> Answer<Option<Checkpoint>> {
    if i64::try_from(sequence).is_err() {
        return Ok(None.into());
    }
    match one(tx, key, sequence)? {
        None if is_missing(tx, key, sequence)? => {
            Err(Problem::corrupt(format!("checkpoint {sequence} is missing")))
        }
        found => Ok(found.into()),
    }
}

/// Returns whether a checkpoint that is not there should be.
fn is_missing(tx: &Connection, key: &CheckpointKey, sequence: u64) -> Result<bool, Problem> {
    let Some(chain) = row::chain(tx, key)? else { return Ok(false) };
    let kept = chain.first.zip(chain.state.head);
    Ok(kept.is_some_and(|(first, head)| (first..=head).contains(&sequence)))
}

pub(super) fn history(tx: &Connection, key: &CheckpointKey, page: Page) -> Answer<Vec<Checkpoint>> {
    let sql = format!(
        "SELECT {} FROM records WHERE workflow = ?1 AND namespace = ?2 AND sequence < ?3
        ORDER BY sequence DESC",
        row::RECORD
    );
    let most = i64::MAX.cast_unsigned();
    let mut before = page.before.unwrap_or(most).min(most);
    let [workflow, namespace] = row::of(key);
    let mut statement = tx.prepare_cached(&sql)?;
    let mut rows = statement.query(params![workflow, namespace, Number(before)])?;
    let mut answer = Found::from(Vec::new());
    while answer.value.len() < page.limit {
        let Some(found) = rows.next()? else { break };
        match row::record(key, found).and_then(|found| whole(tx, found)) {
            Ok(found) if found.sequence < before => {
                before = found.sequence;
                answer.value.push(found);
            }
            Ok(found) => {
                let sequence = Some(found.sequence);
                let problem = Problem::corrupt("a checkpoint is not where it should be");
                answer.warnings.push(Warning { key: key.clone(), sequence, problem });
            }
            Err(problem) if problem.is_corrupt() => {
                let sequence = row::number(found, 0).ok();
                answer.warnings.push(Warning { key: key.clone(), sequence, problem });
            }
            Err(problem) => return Err(problem),
        }
    }
    Ok(answer)
}

pub(super) fn list(tx: &Connection, query: &Query) -> Answer<Vec<Checkpoint>> {
    let of_workflow = if query.workflow_id.is_some() { "AND workflow = ?3" } else { "" };
    let sql = format!(
        "SELECT workflow, namespace, head FROM chains
        WHERE (workflow, namespace) > (?1, ?2) AND head IS NOT NULL {of_workflow}
        ORDER BY workflow, namespace"
    );
    // No chain has an empty workflow, so this is before all of them.
    let mut bounds = query.after.as_ref().map_or(["", ""], row::of).to_vec();
    bounds.extend(query.workflow_id.as_ref().map(WorkflowId::as_str));
    let mut statement = tx.prepare_cached(&sql)?;
    let mut rows = statement.query(params_from_iter(bounds))?;
    let mut answer = Found::from(Vec::new());
    while answer.value.len() < query.limit {
        let Some(found) = rows.next()? else { break };
        let Some(key) = key_of(found)? else { continue };
        if query.namespace.as_ref().is_some_and(|namespace| *namespace != key.namespace)
            || !may_match(tx, &key, row::number(found, 2)?, &query.metadata)?
        {
            continue;
        }
        match latest(tx, &key) {
            Ok(found) => {
                answer.value.extend(found.value.filter(|head| query.matches(head)));
                answer.warnings.extend(found.warnings);
            }
            Err(problem) if problem.is_corrupt() => {
                answer.warnings.push(Warning { key, sequence: None, problem });
            }
            Err(problem) => return Err(problem),
        }
    }
    Ok(answer)
}

/// Reads a name; none where damage has made it one that nobody can have.
fn key_of(row: &rusqlite::Row<'_>) -> Result<Option<CheckpointKey>, Problem> {
    let id = WorkflowId::new(row.get::<_, String>(0)?);
    let namespace = Namespace::new(row.get::<_, String>(1)?);
    Ok(id
        .ok()
        .zip(namespace.ok())
        .map(|(id, namespace)| CheckpointKey::new(id).in_namespace(namespace)))
}

/// Looks at the metadata alone, so that states which nobody asked for are not read.
fn may_match(
    tx: &Connection,
    key: &CheckpointKey,
    sequence: u64,
    wanted: &Metadata,
) -> Result<bool, Problem> {
    if wanted.is_empty() {
        return Ok(true);
    }
    let sql = "SELECT metadata FROM records
        WHERE workflow = ?1 AND namespace = ?2 AND sequence = ?3";
    let [workflow, namespace] = row::of(key);
    let mut statement = tx.prepare_cached(sql)?;
    let text = statement
        .query_row(params![workflow, namespace, Number(sequence)], |row| row.get::<_, String>(0));
    // What cannot be read is for whoever reads the whole of it.
    let Ok(found) = text.map_err(Problem::from).and_then(|text| row::parse(&text)) else {
        return Ok(true);
    };
    Ok(wanted.iter().all(|(name, value)| found.get(name) == Some(value)))
}
