//! The tree of one trace, walked without recursion: it may be deeper than a thread's stack.

use std::{collections::HashMap, fmt::Write as _};

use opentelemetry_proto::tonic::trace::v1::Span;
use serde_json::Value as Json;

use super::span::{line, observation};

/// How many levels below its root a span is still shown: as JSON a level is an object in an array,
/// and `serde_json` reads 128 of those, values in metadata and what surrounds the tree included.
pub(super) const DEEPEST: usize = 50;

/// The spans of one trace, each knowing its children.
pub(super) struct Tree<'a> {
    spans: Vec<&'a Span>,
    roots: Vec<usize>,
    children: Vec<Vec<usize>>,
}

/// Where the walk through a tree is.
#[derive(Clone, Copy)]
struct Step {
    place: usize,
    depth: usize,
    is_last: bool,
}

impl<'a> Tree<'a> {
    pub(super) fn of(spans: Vec<&'a Span>) -> Self {
        let places: HashMap<&[u8], usize> =
            spans.iter().enumerate().map(|(place, span)| (&span.span_id[..], place)).collect();
        let (mut roots, mut children) = (Vec::new(), vec![Vec::new(); spans.len()]);
        let mut order: Vec<usize> = (0..spans.len()).collect();
        // Spans come in the order of their ends; a stable sort keeps it among equal starts,
        // where the one that ended first began first.
        order.sort_by_key(|place| spans[*place].start_time_unix_nano);
        for place in order {
            match places.get(&spans[place].parent_span_id[..]) {
                Some(parent) if *parent != place => children[*parent].push(place),
                _ => roots.push(place),
            }
        }
        Self { spans, roots, children }
    }

    pub(super) fn render(&self, colour: bool) -> String {
        let mut text = String::new();
        // For each level below the root: whether the span above on that level is its parent's last.
        let mut lasts: Vec<bool> = Vec::new();
        for step in self.steps() {
            lasts.truncate(step.depth.saturating_sub(1));
            if step.depth > 0 {
                indent(&lasts, &mut text);
                text.push_str(if step.is_last { "└─ " } else { "├─ " });
                lasts.push(step.is_last);
            }
            text.push_str(&line(self.spans[step.place], colour));
            text.push('\n');
            let deeper = self.deeper(step);
            if deeper > 0 {
                indent(&lasts, &mut text);
                _ = writeln!(text, "└─ deeper: {deeper}");
            }
        }
        text
    }

    pub(super) fn to_json(&self) -> Vec<Json> {
        let mut built: Vec<Option<Json>> = vec![None; self.spans.len()];
        // Backwards, so that children are there before their parents.
        for step in self.steps().into_iter().rev() {
            let children = self.children[step.place].iter();
            let children = children.filter_map(|child| built[*child].take()).collect();
            let span = self.spans[step.place];
            built[step.place] = Some(observation(span, children, self.deeper(step)));
        }
        self.roots.iter().filter_map(|root| built[*root].take()).collect()
    }

    /// Lists the spans that are shown, each before its children.
    fn steps(&self) -> Vec<Step> {
        let mut steps = Vec::with_capacity(self.spans.len());
        let mut open = Vec::new();
        push(&self.roots, 0, &mut open);
        while let Some(step) = open.pop() {
            steps.push(step);
            if step.depth < DEEPEST {
                push(&self.children[step.place], step.depth + 1, &mut open);
            }
        }
        steps
    }

    /// Counts the spans below one, where they are too deep to be shown.
    fn deeper(&self, step: Step) -> usize {
        if step.depth < DEEPEST {
            return 0;
        }
        let mut count = 0;
        let mut open = self.children[step.place].clone();
        while let Some(place) = open.pop() {
            count += 1;
            open.extend(&self.children[place]);
        }
        count
    }
}

/// Puts the spans of one parent on the stack, the first on top.
fn push(places: &[usize], depth: usize, open: &mut Vec<Step>) {
    let steps = places.iter().enumerate().rev();
    open.extend(steps.map(|(position, place)| Step {
        place: *place,
        depth,
        is_last: position + 1 == places.len(),
    }));
}

fn indent(lasts: &[bool], text: &mut String) {
    for is_last in lasts {
        text.push_str(if *is_last { "   " } else { "│  " });
    }
}
