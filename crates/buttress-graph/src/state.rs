use std::{collections::BTreeMap, sync::Arc};

use serde::{Serialize, de::DeserializeOwned};

use crate::{GraphError, error::GraphErrorKind, fields::Fields};

/// What a graph works on: any serde type, and how an update of a node changes it.
///
/// `apply` is the reducer: it may add to a list what an update holds, or replace it. In the simple
/// case the update is the whole state:
///
/// ```
/// use buttress_graph::State;
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Clone, Serialize, Deserialize)]
/// struct Trade {
///     ticker: String,
///     price: u32,
/// }
///
/// impl State for Trade {
///     type Update = Self;
///
///     fn apply(&mut self, update: Self) {
///         *self = update;
///     }
/// }
/// ```
///
/// # Branches
///
/// Nodes that run side by side each start from the same state, and their updates are applied in
/// the order of the nodes. A field (of the state as JSON) that one of them has changed is taken
/// from it. One that several have changed goes through `apply`; where `apply` only keeps the last
/// of two different values, that is [`GraphErrorKind::FieldConflict`], which names the field. Where
/// the state is no JSON object, before or behind one of them, it is one field, named `state`.
pub trait State: Clone + Serialize + DeserializeOwned + Send + Sync + 'static {
    /// What a node answers.
    type Update: Clone + Serialize + DeserializeOwned + Send + Sync + 'static;

    /// Changes the state by an update.
    fn apply(&mut self, update: Self::Update);
}

/// Applies the updates of one superstep, in their order, each with the node that it is from.
pub(crate) fn merge<'a, S: State>(
    state: &mut Arc<S>,
    updates: impl IntoIterator<Item = (&'a str, S::Update)>,
) -> Result<(), GraphError> {
    let mut updates = updates.into_iter();
    match (updates.next(), updates.next()) {
        (Some(first), Some(second)) => {
            let updates: Vec<_> = [first, second].into_iter().chain(updates).collect();
            *state = Arc::new(merge_branches(&**state, &updates)?);
        }
        // No call holds the state any more, so that it is changed where it is.
        (Some((_, update)), None) => Arc::make_mut(state).apply(update),
        (None, _) => {}
    }
    Ok(())
}

fn merge_branches<S: State>(base: &S, updates: &[(&str, S::Update)]) -> Result<S, GraphError> {
    let mut before = fields(base)?;
    let mut merged = fields(&applied(base, updates.iter().map(|(_, update)| update)))?;
    let alone = updates.iter().map(|(_, update)| fields(&applied(base, [update])));
    let mut alone: Vec<Fields> = alone.collect::<Result<_, _>>()?;
    if ![&before, &merged].into_iter().chain(&alone).all(Fields::are_of_object) {
        before = before.into_whole();
        merged = merged.into_whole();
        alone = alone.into_iter().map(Fields::into_whole).collect();
    }
    for (field, writers) in written(&before, &alone) {
        if let [writer] = writers[..] {
            merged.put(field, alone[writer].get(field));
            continue;
        }
        for pair in writers.windows(2) {
            if is_lost(base, field, [pair[0], pair[1]], updates, &alone)? {
                let nodes = [updates[pair[0]].0, updates[pair[1]].0].map(str::to_owned);
                let field = field.trim_start_matches('\0').to_owned();
                return Err(GraphErrorKind::FieldConflict { field, nodes }.into());
            }
        }
    }
    serde_json::from_value(merged.into_json()).map_err(GraphError::state)
}

/// Returns which fields were changed by which updates.
fn written<'a>(before: &'a Fields, alone: &'a [Fields]) -> BTreeMap<&'a str, Vec<usize>> {
    let mut written: BTreeMap<_, Vec<usize>> = BTreeMap::new();
    for (writer, after) in alone.iter().enumerate() {
        for name in before.changed(after) {
            written.entry(name).or_default().push(writer);
        }
    }
    written
}

/// Returns whether of two values for a field the first is gone without a trace, whichever is first.
fn is_lost<S: State>(
    base: &S,
    field: &str,
    [one, other]: [usize; 2],
    updates: &[(&str, S::Update)],
    alone: &[Fields],
) -> Result<bool, GraphError> {
    let both = |order: [usize; 2]| {
        let both = fields(&applied(base, order.map(|place| &updates[place].1)))?;
        Ok::<_, GraphError>(if alone[one].are_of_object() { both } else { both.into_whole() })
    };
    let (own, others) = (alone[one].get(field), alone[other].get(field));
    Ok(own != others
        && both([one, other])?.get(field) == others
        && both([other, one])?.get(field) == own)
}

fn applied<'a, S: State>(base: &S, updates: impl IntoIterator<Item = &'a S::Update>) -> S {
    let mut state = base.clone();
    updates.into_iter().for_each(|update| state.apply(update.clone()));
    state
}

fn fields<S: State>(state: &S) -> Result<Fields, GraphError> {
    Fields::of(state).map_err(GraphError::state)
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    enum Phase {
        Idle,
        Trading { state: u8 },
    }

    impl State for Phase {
        type Update = Self;

        fn apply(&mut self, update: Self) {
            *self = update;
        }
    }

    fn join(base: Phase, one: Phase, other: Phase) -> Result<Phase, GraphErrorKind> {
        let mut state = Arc::new(base);
        merge(&mut state, [("one", one), ("other", other)])
            .map(|()| Arc::unwrap_or_clone(state))
            .map_err(|error| error.kind().clone())
    }

    #[test]
    fn what_is_not_always_an_object_is_one_field() {
        use Phase::{Idle, Trading};
        assert_eq!(join(Idle, Trading { state: 1 }, Idle), Ok(Trading { state: 1 }));
        assert_eq!(join(Trading { state: 1 }, Trading { state: 1 }, Idle), Ok(Idle));
        let nodes = ["one", "other"].map(str::to_owned);
        let conflict = GraphErrorKind::FieldConflict { field: "state".to_owned(), nodes };
        assert_eq!(join(Trading { state: 1 }, Trading { state: 2 }, Idle), Err(conflict));
    }
}
