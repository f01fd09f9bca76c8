//! Who stands in whom.

use std::collections::HashMap;

use buttress::telemetry::key;

use super::is_ours;
use crate::Observation;

/// Where each observation stands.
pub(super) struct Relations<'a> {
    places: Vec<Place<'a>>,
}

/// Where an observation stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Place<'a> {
    /// Its agent, or that of the nearest one around it that has one.
    pub(super) agent: Option<&'a str>,
    /// Whether nothing of buttress is around it.
    pub(super) is_outermost: bool,
    /// Whether nothing of buttress around it is of its agent at once.
    pub(super) is_outermost_of_agent: bool,
}

/// What is known of an observation once what is around it is known.
#[derive(Debug, Clone, Copy)]
struct Known<'a> {
    agent: Option<&'a str>,
    /// Whether something of buttress is in its place or around it.
    has_ours: bool,
    /// Whether everything around it up to the root was read.
    is_whole: bool,
}

impl<'a> Relations<'a> {
    pub(super) fn of(observations: &'a [Observation]) -> Self {
        let by_id: HashMap<(&str, &str), usize> = observations
            .iter()
            .enumerate()
            .map(|(place, one)| ((one.trace_id.as_str(), one.id.as_str()), place))
            .collect();
        let parents: Vec<Option<usize>> = observations
            .iter()
            .enumerate()
            .map(|(place, one)| {
                let parent = by_id.get(&(&one.trace_id, one.parent_id.as_deref()?)).copied();
                parent.filter(|parent| *parent != place)
            })
            .collect();
        let mut known: Vec<Option<Known<'a>>> = vec![None; observations.len()];
        for place in 0..observations.len() {
            resolve(place, observations, &parents, &mut known);
        }
        let places = observations.iter().enumerate().map(|(place, one)| {
            let around = parents[place].and_then(|parent| known[parent]);
            let around = around.unwrap_or_else(|| outside(one));
            let agent = known[place].and_then(|known| known.agent);
            Place {
                agent,
                is_outermost: !around.has_ours && around.is_whole,
                is_outermost_of_agent: around.is_whole
                    && (!around.has_ours || around.agent != agent),
            }
        });
        Self { places: places.collect() }
    }

    pub(super) fn places(&self) -> impl Iterator<Item = Place<'a>> {
        self.places.iter().copied()
    }
}

/// Finds out about an observation and all around it, without recursion: a trace may be deep.
fn resolve<'a>(
    place: usize,
    observations: &'a [Observation],
    parents: &[Option<usize>],
    known: &mut [Option<Known<'a>>],
) {
    let mut open = Vec::new();
    let mut next = Some(place);
    while let Some(place) = next.filter(|place| known[*place].is_none()) {
        // A circle, which only a damaged trace has, is cut where it was entered.
        known[place] = Some(outside(&observations[place]));
        open.push(place);
        next = parents[place];
    }
    for place in open.into_iter().rev() {
        let one = &observations[place];
        let around = parents[place].and_then(|parent| known[parent]);
        let around = around.unwrap_or_else(|| outside(one));
        let own = one.metadata.get(key::AGENT_ID).and_then(|agent| agent.as_str());
        known[place] = Some(Known {
            agent: own.or(around.agent),
            has_ours: around.has_ours || is_ours(one),
            is_whole: around.is_whole,
        });
    }
}

/// Says what is around an observation whose parent was not read: nothing, where it is a root.
const fn outside<'a>(one: &Observation) -> Known<'a> {
    Known { agent: None, has_ours: false, is_whole: one.is_root || one.parent_id.is_none() }
}
