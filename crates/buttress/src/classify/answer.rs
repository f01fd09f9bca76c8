//! Errors and refusals inside answers with a status below 400, found without a tree of the answer.

use std::fmt;

use http::StatusCode;
use serde::{
    Deserialize, Deserializer,
    de::{DeserializeOwned, DeserializeSeed, Error, IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::Value;

use super::provider_error::{ProviderError, is_error};
use crate::{Failure, FailureKind};

/// Why an answer ends early or is empty, in the words of providers.
const FILTERS: &[&str] = &[
    "content_filter",
    "refusal",
    "SAFETY",
    "PROHIBITED_CONTENT",
    "BLOCKLIST",
    "RECITATION",
    "SPII",
    "IMAGE_SAFETY",
    "IMAGE_PROHIBITED_CONTENT",
];

/// Searches a JSON answer.
pub(super) fn failure_in_json(body: &[u8]) -> Option<Failure> {
    let Ok(glance) = Glance::at(body) else {
        let failure = Failure::new(FailureKind::Transient);
        return Some(failure.with_message("the answer is not JSON"));
    };
    glance.failure().or_else(|| glance.blocked()).or_else(|| glance.refusal(body))
}

/// Searches the events of a stream that was buffered whole.
pub(super) fn failure_in_events(body: &[u8]) -> Option<Failure> {
    let events = body.split(|byte| *byte == b'\n').filter_map(|line| line.strip_prefix(b"data:"));
    events.filter_map(|data| std::str::from_utf8(data).ok()).find_map(|data| {
        // Chunks of an answer are not read; only those that mention a failure are.
        let mentions = ["\"error\"", "\"blockReason\""].iter().any(|word| data.contains(word));
        let glance = mentions.then(|| Glance::at(data.as_bytes()).ok())??;
        glance.failure().or_else(|| glance.failure_of_event(data)).or_else(|| glance.blocked())
    })
}

/// What one event of a stream is.
#[cfg(feature = "stream")]
pub(super) struct Event {
    /// Only announces the answer.
    pub(super) is_preamble: bool,
    /// Is of a protocol that says where its streams end.
    pub(super) promises_end: bool,
    /// Is that end: nothing of interest comes behind it.
    pub(super) is_end: bool,
    /// Is an end that others may follow.
    pub(super) may_be_end: bool,
}

/// What an event is that cannot be read.
#[cfg(feature = "stream")]
pub(super) const NOT_JSON: &str = "an event is not JSON";

/// The events that come before the answer: Anthropic's, and those of OpenAI's Responses.
#[cfg(feature = "stream")]
const PREAMBLE: &[&str] = &[
    "ping",
    "message_start",
    "content_block_start",
    "response.created",
    "response.queued",
    "response.in_progress",
    "response.output_item.added",
    "response.content_part.added",
];

/// The events that end an answer.
#[cfg(feature = "stream")]
const END: &[&str] = &["message_stop", "response.completed", "response.incomplete"];

/// Judges one event of a stream; `looks_closer` asks whether something of the answer has come.
#[cfg(feature = "stream")]
pub(super) fn judge_event(
    is_named_error: bool,
    data: &[u8],
    looks_closer: bool,
) -> Result<Event, Failure> {
    if data.trim_ascii() == b"[DONE]" {
        let (promises_end, is_end) = (true, true);
        return Ok(Event { is_preamble: false, promises_end, is_end, may_be_end: true });
    }
    let failed = |message| Failure::new(FailureKind::Transient).with_message(message);
    let Ok(glance) = Glance::at(data) else {
        // Some say in plain words what is wrong.
        let message = if is_named_error { "an error in the stream" } else { NOT_JSON };
        return Err(failed(message));
    };
    let kind = glance.event.as_str().unwrap_or_default();
    let is_failed = is_named_error || matches!(kind, "error" | "response.failed");
    let is_failed = is_failed || [&glance.error, &glance.choice_error].into_iter().any(is_error);
    if is_failed {
        let text = std::str::from_utf8(data).unwrap_or_default();
        let failure = glance.failure().or_else(|| glance.failure_of_event(text));
        let failure = failure.or_else(|| {
            ProviderError::of_body(&serde_json::from_str(text).ok()?).failure(StatusCode::OK)
        });
        return Err(failure.unwrap_or_else(|| failed("an error in the stream")));
    }
    if let Some(failure) = glance.blocked() {
        return Err(failure);
    }
    let is_chunk = glance.has_choices || glance.has_candidates;
    Ok(Event {
        is_preamble: PREAMBLE.contains(&kind)
            || looks_closer && is_chunk && !glance.is_finished && !has_part(data),
        promises_end: is_chunk || kind.starts_with("response.") || kind == "message_start",
        is_end: END.contains(&kind),
        // Google's candidates end one by one, and with some of its models in every chunk.
        may_be_end: glance.has_candidates && glance.is_finished,
    })
}

/// Returns whether a chunk of a stream holds some of the answer.
#[cfg(feature = "stream")]
fn has_part(data: &[u8]) -> bool {
    let Ok(chunk) = serde_json::from_slice::<Value>(data) else { return false };
    let list = |key: &str| chunk[key].as_array().into_iter().flatten();
    let says = |value: &Value| match value {
        Value::String(text) => !text.is_empty(),
        Value::Array(parts) => !parts.is_empty(),
        Value::Object(part) => !part.is_empty(),
        _ => false,
    };
    list("choices").any(|choice| {
        // Some send a message where others send what is new of it.
        let parts = ["delta", "message"].into_iter().filter_map(|key| choice[key].as_object());
        says(&choice["text"])
            || parts.flatten().filter(|(key, _)| *key != "role").any(|(_, part)| says(part))
    }) || list("candidates").any(|candidate| says(&candidate["content"]["parts"]))
}

/// What may say that an answer is none; the rest is skipped unread.
#[derive(Default)]
struct Glance {
    /// `error`; of a list, that of its first element.
    error: Value,
    /// `choices[].error`, the last one.
    choice_error: Value,
    /// `type`, the name of an event.
    event: Value,
    /// `response.error`.
    response_error: Value,
    /// `promptFeedback`.
    prompt_feedback: Value,
    /// The one of [`FILTERS`] that ended the answer.
    filter: Option<&'static str>,
    /// Whether there are `choices`.
    has_choices: bool,
    /// Whether there are `candidates`.
    has_candidates: bool,
    /// Whether one of them has come to its end.
    is_finished: bool,
    /// Stands in another value, and enters no list.
    inner: bool,
}

#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "snake_case")]
enum Key {
    Error,
    Choices,
    Candidates,
    Type,
    Response,
    #[serde(rename = "promptFeedback")]
    PromptFeedback,
    StopReason,
    IncompleteDetails,
    #[serde(other)]
    Other,
}

/// What ended the choices of OpenAI or the candidates of Google.
#[derive(Default)]
struct Choices {
    error: Value,
    filter: Option<&'static str>,
    is_finished: bool,
    /// Stands in the list, and enters no other.
    inner: bool,
}

#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "snake_case")]
enum ChoiceKey {
    #[serde(alias = "finishReason")]
    FinishReason,
    Error,
    #[serde(other)]
    Other,
}

// ===== impl Glance =====

impl Glance {
    fn at(body: &[u8]) -> serde_json::Result<Self> {
        let mut glance = Self::default();
        let mut deserializer = serde_json::Deserializer::from_slice(body);
        Skim(&mut glance).deserialize(&mut deserializer)?;
        deserializer.end()?;
        Ok(glance)
    }

    fn inner() -> Self {
        Self { inner: true, ..Self::default() }
    }

    fn failure(&self) -> Option<Failure> {
        let errors = [&self.error, &self.choice_error];
        let error = errors.into_iter().find(|error| is_error(error))?;
        ProviderError::of_error(error).failure(StatusCode::OK)
    }

    /// Returns the failure of an event that says by its type that it is one (OpenAI Responses).
    fn failure_of_event(&self, data: &str) -> Option<Failure> {
        match self.event.as_str()? {
            "response.failed" => {
                ProviderError::of_error(&self.response_error).failure(StatusCode::OK)
            }
            "error" => {
                let event: Value = serde_json::from_str(data).ok()?;
                ProviderError::of_error(&event).failure(StatusCode::OK)
            }
            _ => None,
        }
    }

    /// Returns the failure of a prompt that was blocked.
    fn blocked(&self) -> Option<Failure> {
        let reason = self.prompt_feedback["blockReason"].as_str()?;
        let failure = Failure::new(FailureKind::ContentPolicy);
        Some(failure.with_message(filter(reason).unwrap_or("prompt blocked")))
    }

    /// Returns the failure of an answer that a filter kept back, unless something of it came.
    fn refusal(&self, body: &[u8]) -> Option<Failure> {
        let filter = self.filter?;
        let failure = Failure::new(FailureKind::ContentPolicy);
        let answer: Value = serde_json::from_slice(body).ok()?;
        (!has_content(&answer)).then(|| failure.with_message(filter))
    }
}

impl Members for Glance {
    type Key = Key;

    fn member<'de, A: MapAccess<'de>>(&mut self, key: Key, map: &mut A) -> Result<(), A::Error> {
        match key {
            Key::Error => self.error = map.next_value()?,
            Key::Type => self.event = map.next_value()?,
            Key::PromptFeedback => self.prompt_feedback = map.next_value()?,
            Key::StopReason => self.filter = filter_of(&map.next_value()?).or(self.filter),
            Key::IncompleteDetails => {
                let details: Value = map.next_value()?;
                self.filter = filter_of(&details["reason"]).or(self.filter);
            }
            Key::Response if !self.inner => {
                let mut response = Self::inner();
                map.next_value_seed(Skim(&mut response))?;
                self.response_error = response.error;
            }
            Key::Choices | Key::Candidates => {
                let mut choices = Choices::default();
                map.next_value_seed(Skim(&mut choices))?;
                self.choice_error = choices.error;
                self.filter = choices.filter.or(self.filter);
                self.is_finished = choices.is_finished;
                self.has_choices |= matches!(key, Key::Choices);
                self.has_candidates |= matches!(key, Key::Candidates);
            }
            Key::Response | Key::Other => drop(map.next_value::<IgnoredAny>()?),
        }
        Ok(())
    }

    fn elements<'de, A: SeqAccess<'de>>(&mut self, list: &mut A) -> Result<(), A::Error> {
        if !self.inner {
            let mut first = Self::inner();
            list.next_element_seed(Skim(&mut first))?;
            self.error = first.error;
        }
        Ok(())
    }
}

// ===== impl Choices =====

impl Members for Choices {
    type Key = ChoiceKey;

    fn member<'de, A: MapAccess<'de>>(
        &mut self,
        key: ChoiceKey,
        map: &mut A,
    ) -> Result<(), A::Error> {
        match key {
            ChoiceKey::FinishReason if self.inner => {
                let reason: Value = map.next_value()?;
                self.filter = filter_of(&reason).or(self.filter);
                self.is_finished |= reason.is_string();
            }
            ChoiceKey::Error if self.inner => {
                let error: Value = map.next_value()?;
                if is_error(&error) {
                    self.error = error;
                }
            }
            _ => drop(map.next_value::<IgnoredAny>()?),
        }
        Ok(())
    }

    fn elements<'de, A: SeqAccess<'de>>(&mut self, list: &mut A) -> Result<(), A::Error> {
        if !self.inner {
            self.inner = true;
            while list.next_element_seed(Skim(&mut *self))?.is_some() {}
            self.inner = false;
        }
        Ok(())
    }
}

/// Returns the filter that a reason to stop names.
fn filter_of(reason: &Value) -> Option<&'static str> {
    filter(reason.as_str()?)
}

fn filter(reason: &str) -> Option<&'static str> {
    FILTERS.iter().copied().find(|known| *known == reason)
}

/// Returns whether an answer of OpenAI, Google or Anthropic holds something for its reader.
fn has_content(answer: &Value) -> bool {
    let list = |key: &str| answer[key].as_array().into_iter().flatten();
    let of_choice = |choice: &Value| {
        let message = &choice["message"];
        let said = ["content", "tool_calls", "function_call", "audio"];
        said.iter().any(|key| is_filled(&message[*key])) || is_filled(&choice["text"])
    };
    list("choices").any(of_choice)
        || list("candidates").any(|candidate| is_filled(&candidate["content"]["parts"]))
        || is_filled(&answer["content"])
        || is_filled(&answer["output"])
}

/// Returns whether a text, a part of an answer, or one of a list of them is not empty.
///
/// What the model thought before it was stopped is no content, and neither is its refusal.
fn is_filled(content: &Value) -> bool {
    match content {
        Value::String(text) => !text.is_empty(),
        Value::Array(parts) => parts.iter().any(is_filled),
        Value::Object(part) => {
            let aside = ["thinking", "redacted_thinking", "reasoning", "refusal"];
            let kind = part.get("type").and_then(Value::as_str);
            let thought = part.get("thought").and_then(Value::as_bool) == Some(true);
            let of = |key| part.get(key).filter(|value| !value.is_null());
            let inside = of("text").or(of("content"));
            !thought
                && kind.is_none_or(|kind| !aside.contains(&kind))
                && inside.map_or(!part.is_empty(), is_filled)
        }
        _ => false,
    }
}

// ===== Skimming =====

/// Reads some members of an object or some elements of a list.
trait Members {
    type Key: DeserializeOwned;

    /// Takes the value of one member.
    fn member<'de, A: MapAccess<'de>>(
        &mut self,
        key: Self::Key,
        map: &mut A,
    ) -> Result<(), A::Error>;

    /// Takes some elements; what is left is skipped.
    fn elements<'de, A: SeqAccess<'de>>(&mut self, list: &mut A) -> Result<(), A::Error>;
}

/// Goes over any JSON value, and fails only where it is not JSON.
struct Skim<'a, M>(&'a mut M);

impl<'de, M: Members> DeserializeSeed<'de> for Skim<'_, M> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de, M: Members> Visitor<'de> for Skim<'_, M> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key()? {
            self.0.member(key, &mut map)?;
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        self.0.elements(&mut list)?;
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(())
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<(), E> {
        Ok(())
    }
}
