//! What is known around a span, beside the span above it.

use std::sync::Arc;

use opentelemetry::{
    Context, TraceId,
    baggage::{Baggage, BaggageExt as _},
    trace::TraceContextExt as _,
};
use opentelemetry_proto::tonic::common::v1::any_value;

use super::baggage::{LANGFUSE, decode, encode_key};
use crate::{core::Core, trace::TraceContext, value};

/// How long a value may be, in characters; the official SDKs drop longer ones.
const LONGEST: usize = 200;
/// How long an environment may be.
const LONGEST_ENVIRONMENT: usize = 40;

/// The key of the trace whose root some process has sent.
pub(super) const CLAIM: &str = "langfuse_trace_id";

/// What stands on each span that starts where this is current.
#[derive(Debug, Clone, Default)]
pub(crate) struct Scope {
    pub(crate) says: TraceContext,
    /// What of it goes to other processes, where anything does.
    pub(super) shared: Option<TraceContext>,
    /// The trace that has its root in another process, which said so.
    claimed: Option<TraceId>,
    /// How many scopes this one is in.
    depth: u32,
}

// ===== impl Scope =====

impl Scope {
    pub(super) fn new(says: TraceContext, is_shared: bool) -> Self {
        let shared = is_shared.then(|| says.clone());
        Self { says, shared, claimed: None, depth: 1 }
    }

    /// Returns the scope of a context; baggage that somebody else has read makes one too.
    pub(crate) fn of(context: &Context) -> Option<Arc<Self>> {
        if let Some(scope) = context.get::<Arc<Self>>() {
            return Some(scope.clone());
        }
        let baggage = context.baggage();
        if baggage.is_empty() { None } else { Self::read(baggage).map(Arc::new) }
    }

    /// Returns the scope of a span that starts: that of its parent's context, or the one in which
    /// it starts, if that is within the former.
    pub(crate) fn around(parent: &Context) -> Option<Arc<Self>> {
        Self::deeper(Self::of(parent), Context::map_current(Self::of))
    }

    /// Returns the scope in which code runs: that of a context, or the one of its span, which may
    /// have been made before a scope and have started in it.
    pub(super) fn at(context: &Context) -> Option<Arc<Self>> {
        let span = context.span();
        let span = span.span_context();
        let of_span = if span.is_valid() && !span.is_remote() {
            let scope = |core: &Arc<Core>| core.traces.scope(span.trace_id(), span.span_id());
            Core::live().iter().find_map(scope)
        } else {
            None
        };
        Self::deeper(Self::of(context), of_span)
    }

    /// Returns the one that is within the other; the first where neither is.
    pub(crate) fn deeper(first: Option<Arc<Self>>, second: Option<Arc<Self>>) -> Option<Arc<Self>> {
        match (first, second) {
            (Some(first), Some(second)) if second.depth > first.depth => Some(second),
            (first, second) => first.or(second),
        }
    }

    /// Puts the scope into another: tags and metadata add up, the rest replaces.
    pub(super) fn within(self: &Arc<Self>, outer: Option<&Self>) -> Arc<Self> {
        let Some(outer) = outer else { return self.clone() };
        let mut both = outer.clone();
        both.says.merge(&self.says);
        if let Some(shared) = &self.shared {
            both.shared.get_or_insert_default().merge(shared);
        }
        both.claimed = self.claimed.or(outer.claimed);
        both.depth = outer.depth.saturating_add(self.depth);
        Arc::new(both)
    }

    /// Returns whether another process has said that the root of the trace is there.
    pub(crate) fn has_claimed(&self, trace: TraceId) -> bool {
        self.claimed == Some(trace)
    }
}

/// Returns whether two places hold the same scope.
pub(super) fn same(one: Option<&Arc<Scope>>, other: Option<&Arc<Scope>>) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => Arc::ptr_eq(one, other),
        (one, other) => one.is_none() && other.is_none(),
    }
}

// ===== what Langfuse says in baggage =====

impl Scope {
    /// Reads the entries that are Langfuse's; nothing where there are none.
    pub(super) fn read(baggage: &Baggage) -> Option<Self> {
        let mut scope = Self { depth: 1, ..Self::default() };
        for (key, (value, _)) in baggage {
            let Some(key) = key.as_str().strip_prefix(LANGFUSE) else { continue };
            let value = value.as_str();
            if key == "trace_id" {
                scope.claimed = TraceId::from_hex(&value.to_ascii_lowercase()).ok();
            } else {
                scope.says.take(key, value);
            }
        }
        (scope.claimed.is_some() || !scope.says.is_empty()).then_some(scope)
    }
}

impl TraceContext {
    fn take(&mut self, key: &str, text: &str) {
        if key == "tags" {
            list(text).filter(|tag| is_short(tag)).for_each(|tag| self.tag(&tag));
            return;
        }
        if text.is_empty() || !is_short(text) {
            return;
        }
        let place = match key {
            "user_id" => &mut self.user,
            "session_id" => &mut self.session,
            "version" => &mut self.version,
            "trace_name" => &mut self.name,
            "environment" if is_environment(text) => &mut self.environment,
            _ => {
                if let Some(key) = key.strip_prefix("metadata_") {
                    self.set_metadata(&decode(key), value::text(text));
                }
                return;
            }
        };
        *place = Some(text.to_owned());
    }

    /// Returns what is said as entries of baggage.
    pub(super) fn entries(&self) -> impl Iterator<Item = (String, String)> {
        let texts = [
            ("user_id", &self.user),
            ("session_id", &self.session),
            ("version", &self.version),
            ("trace_name", &self.name),
            ("environment", &self.environment),
        ];
        let texts = texts.into_iter().filter_map(|(key, text)| Some((key, text.clone()?)));
        let tags = (!self.tags.is_empty()).then(|| ("tags", joined(&self.tags)));
        let entry = |(key, text)| ([LANGFUSE, key].concat(), text);
        let metadata = self.metadata.iter().filter_map(|(key, value)| match &value.value {
            Some(any_value::Value::StringValue(text)) => {
                let key = [LANGFUSE, "metadata_", &encode_key(key)].concat();
                Some((key, text.clone()))
            }
            _ => None,
        });
        texts.chain(tags).map(entry).chain(metadata)
    }
}

/// Joins tags as the official SDKs do, and as a JSON list where that would tear one apart.
fn joined(tags: &[String]) -> String {
    if tags.iter().any(|tag| tag.contains(',')) {
        return serde_json::Value::from(tags).to_string();
    }
    tags.join(",")
}

/// Reads tags as they are joined, and as the Python SDK shows its lists.
fn list(text: &str) -> impl Iterator<Item = String> {
    let json = serde_json::from_str::<Vec<String>>(text).ok();
    let is_json = json.is_some();
    let inner = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
    let is_python = inner.is_some();
    let words = inner.unwrap_or(text).split(',').filter(move |_| !is_json).map(move |word| {
        let word = word.trim();
        if is_python { word.trim_matches(['\'', '"']).to_owned() } else { word.to_owned() }
    });
    json.into_iter().flatten().chain(words)
}

pub(super) fn is_short(text: &str) -> bool {
    text.len() <= LONGEST || text.chars().nth(LONGEST).is_none()
}

/// Tells whether the official SDKs take an environment; they drop others.
pub(super) fn is_environment(text: &str) -> bool {
    let allowed =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_".contains(&byte);
    !text.is_empty()
        && text.len() <= LONGEST_ENVIRONMENT
        && !text.starts_with("langfuse")
        && text.bytes().all(allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(entries: &[(&str, &str)]) -> Option<Scope> {
        let mut baggage = Baggage::new();
        for (key, value) in entries {
            baggage.insert((*key).to_owned(), (*value).to_owned());
        }
        Scope::read(&baggage)
    }

    #[test]
    fn what_is_said_as_baggage_is_read_again() {
        let mut says = TraceContext {
            name: Some("order".to_owned()),
            session: Some("s 1".to_owned()),
            user: Some("u".to_owned()),
            version: Some("2".to_owned()),
            environment: Some("prod".to_owned()),
            ..TraceContext::default()
        };
        says.tag("a");
        says.tag("b");
        says.set_metadata("my key", value::text("1"));
        let entries: Vec<_> = says.entries().collect();
        let entries: Vec<_> = entries.iter().map(|(key, value)| (&**key, &**value)).collect();
        assert!(entries.contains(&("langfuse_tags", "a,b")), "{entries:?}");
        assert!(entries.contains(&("langfuse_metadata_my%20key", "1")), "{entries:?}");
        assert_eq!(read(&entries).unwrap().says, says);
    }

    #[test]
    fn tags_are_read_in_each_form() {
        for (text, tags) in [
            ("a,b", &["a", "b"][..]),
            (" a , ,b,a", &["a", "b"]),
            ("['a', 'b']", &["a", "b"]),
            (r#"["a,b", "c"]"#, &["a,b", "c"]),
            ("[a", &["[a"]),
        ] {
            let scope = read(&[("langfuse_tags", text)]).unwrap();
            assert_eq!(scope.says.tags, tags, "{text}");
        }
        let says = TraceContext { tags: vec!["a,b".to_owned()], ..TraceContext::default() };
        let (_, text) = says.entries().next().unwrap();
        assert_eq!(read(&[("langfuse_tags", &text)]).unwrap().says.tags, ["a,b"]);
    }

    #[test]
    fn what_the_official_sdks_would_not_say_is_passed_over() {
        let long = "x".repeat(201);
        for entry in [
            ("langfuse_user_id", long.as_str()),
            ("langfuse_tags", &long),
            ("langfuse_user_id", ""),
            ("langfuse_environment", "Prod"),
            ("langfuse_environment", "langfuse-x"),
            ("langfuse_trace_id", "nonsense"),
            ("langfuse_prompt_name", "p"),
            ("tenant", "t"),
        ] {
            assert!(read(&[entry]).is_none(), "{entry:?}");
        }
        // Counted in characters.
        let fits = "\u{e4}".repeat(200);
        let scope = read(&[("langfuse_user_id", &fits)]).unwrap();
        assert_eq!(scope.says.user, Some(fits));
    }

    #[test]
    fn a_claim_is_read_in_either_case() {
        let id = "4BF92F3577B34DA6A3CE929D0E0E4736";
        let scope = read(&[(CLAIM, id)]).unwrap();
        let trace = TraceId::from_hex(&id.to_lowercase()).unwrap();
        assert!(scope.has_claimed(trace) && !scope.has_claimed(TraceId::from(1_u128)));
    }

    #[test]
    fn in_a_scope_tags_and_metadata_add_up_and_the_rest_replaces() {
        let says = |user: &str, tag: &str, key: &str| {
            let mut says = TraceContext { user: Some(user.to_owned()), ..TraceContext::default() };
            says.tag(tag);
            says.set_metadata(key, value::text(user));
            says
        };
        let outer = Scope::new(says("outer", "a", "x"), false);
        let inner = Arc::new(Scope::new(says("inner", "b", "y"), true)).within(Some(&outer));
        assert_eq!(inner.says.user.as_deref(), Some("inner"));
        assert_eq!(inner.says.tags, ["a", "b"]);
        assert_eq!(inner.says.metadata.len(), 2);
        // What the outer one does not share stays here.
        assert_eq!(inner.shared.as_ref().unwrap().tags, ["b"]);
        let first = Scope::deeper(Some(Arc::new(outer)), Some(inner.clone())).unwrap();
        assert!(Arc::ptr_eq(&first, &inner));
    }
}
