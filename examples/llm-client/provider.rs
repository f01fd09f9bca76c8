//! A provider: one model behind an OpenAI client, asked in a stream, told as a generation.

use std::error::Error as StdError;

use async_openai::{
    Client,
    config::OpenAIConfig,
    error::OpenAIError,
    types::chat::{
        ChatCompletionRequestUserMessage, ChatCompletionStreamOptions, CreateChatCompletionRequest,
        CreateChatCompletionRequestArgs,
    },
};
use buttress::{
    BoxError, Circuit, CircuitBreakerLayer, Error, ErrorKind, Failure, FailureKind, telemetry,
};
use futures_util::StreamExt as _;
use jiff::Timestamp;
use serde_json::json;
use tracing::{Instrument as _, Span, field::Empty};

use crate::transport::{Patience, transport};

/// Where a model is, what it is called, and what it costs.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) name: &'static str,
    pub(crate) base_url: String,
    pub(crate) key: String,
    pub(crate) model: String,
    /// US dollars for a million tokens, in and out.
    pub(crate) price: (f64, f64),
}

/// A model that can be asked.
#[derive(Clone)]
pub(crate) struct Provider {
    client: Client<OpenAIConfig>,
    settings: Settings,
    circuit: Circuit,
}

/// Who has answered, with how many tokens.
#[derive(Debug, Clone)]
pub(crate) struct Reply {
    pub(crate) provider: &'static str,
    pub(crate) tokens: u32,
}

impl Provider {
    pub(crate) fn new(settings: Settings, client: reqwest::Client, patience: Patience) -> Self {
        let circuit = CircuitBreakerLayer::new(settings.name).circuit();
        let base_url = settings.base_url.trim_end_matches('/');
        let config = OpenAIConfig::new().with_api_base(base_url).with_api_key(&settings.key);
        let transport = transport(settings.name, client, circuit.clone(), patience);
        let client = Client::with_config(config).with_http_service(transport);
        Self { client, settings, circuit }
    }

    pub(crate) const fn circuit(&self) -> &Circuit {
        &self.circuit
    }

    /// Asks, and hears the answer to its end; `hear` gets each word as it comes.
    pub(crate) async fn ask(
        self,
        prompt: String,
        hear: impl Fn(&str) + Send,
    ) -> Result<Reply, BoxError> {
        let span = self.span(&prompt);
        let told = span.clone();
        let result = self.hear(prompt, hear, &told).instrument(span.clone()).await;
        let outcome = match &result {
            Ok(_) => telemetry::outcome::SUCCESS,
            Err(error) => {
                span.record(telemetry::key::LEVEL, telemetry::level::ERROR);
                span.record(telemetry::key::STATUS_MESSAGE, chain(&**error).as_str());
                telemetry::outcome::FAILURE
            }
        };
        span.record(telemetry::key::OUTCOME, outcome);
        result
    }

    async fn hear(
        self,
        prompt: String,
        hear: impl Fn(&str) + Send,
        span: &Span,
    ) -> Result<Reply, BoxError> {
        let request = self.request(prompt)?;
        let mut stream = self.client.chat().create_stream(request).await.map_err(cause)?;
        let (mut text, mut words, mut tokens) = (String::new(), 0, 0);
        while let Some(chunk) = stream.next().await {
            let chunk = chunk.map_err(|error| cut(words, error))?;
            let said = chunk.choices.first().and_then(|choice| choice.delta.content.as_deref());
            if let Some(word) = said.filter(|word| !word.is_empty()) {
                if text.is_empty() {
                    span.record("completion_start_time", Timestamp::now().to_string());
                }
                hear(word);
                words += 1;
                text.push_str(word);
            }
            if let Some(usage) = chunk.usage {
                tokens = usage.completion_tokens;
                let (input, output) = (usage.prompt_tokens, usage.completion_tokens);
                let (price_in, price_out) = self.settings.price;
                let cost = f64::from(input) * price_in + f64::from(output) * price_out;
                span.record("usage", json!({ "input": input, "output": output }).to_string());
                span.record("cost", json!({ "total": cost / 1e6 }).to_string());
            }
        }
        if text.is_empty() {
            let failure = Failure::new(FailureKind::Transient);
            return Err(failure.with_message("the answer holds no text").into());
        }
        span.record("output", &*text);
        Ok(Reply { provider: self.settings.name, tokens })
    }

    fn request(&self, prompt: String) -> Result<CreateChatCompletionRequest, BoxError> {
        let message = ChatCompletionRequestUserMessage::from(prompt);
        let request = CreateChatCompletionRequestArgs::default()
            .model(&*self.settings.model)
            .messages([message.into()])
            .stream_options(ChatCompletionStreamOptions {
                include_usage: Some(true),
                include_obfuscation: None,
            })
            .build();
        Ok(request?)
    }

    fn span(&self, prompt: &str) -> Span {
        tracing::info_span!(
            target: telemetry::TARGET,
            telemetry::span::LLM_CALL,
            observation_type = "generation",
            agent_id = self.settings.name,
            model = &*self.settings.model,
            input = prompt,
            output = Empty,
            usage = Empty,
            cost = Empty,
            completion_start_time = Empty,
            outcome = Empty,
            level = Empty,
            status_message = Empty,
        )
    }
}

/// Says how much was heard, so that nobody answers once more. What cut the stream async-openai keeps as
/// a text; the spans of the transport have it whole.
fn cut(words: u64, error: OpenAIError) -> BoxError {
    Error::new(ErrorKind::interrupted(words)).with_source(error).into()
}

/// Returns an error with all that caused it, in one line.
pub(crate) fn chain(error: &(dyn StdError + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(&format!(": {cause}"));
        next = cause.source();
    }
    text
}

/// Takes out what the transport put in, so that its failure is found.
fn cause(error: OpenAIError) -> BoxError {
    match error {
        OpenAIError::Boxed(error) => error,
        error => error.into(),
    }
}
