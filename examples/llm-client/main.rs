//! An OpenAI client with buttress inside it, and a chain of providers that goes by what failed.
//!
//! ```text
//! cargo run --release --bin llm-client -- "AAPL [503x2]"
//! ```
//!
//! Without settings it asks an embedded model, which fails as the prompt says (see `embedded.rs`).
//! `OPENAI_BASE_URL`, `OPENAI_API_KEY`, `OPENAI_MODEL`, `OPENAI_LONG_MODEL` and `OPENAI_BACKUP_MODEL` name
//! any other endpoint that speaks OpenAI's protocol. With `LANGFUSE_PUBLIC_KEY` and
//! `LANGFUSE_SECRET_KEY` each answer is a generation there, with its cost and its time to first token.

mod provider;
mod transport;

use std::{io::Write as _, process::ExitCode, time::Duration};

use buttress::{BoxError, Error, FailureKind, FallbackService};
use buttress_examples::{EmbeddedModel, LARGE, LONG, SMALL, complain, deliver, local_client};
use buttress_langfuse::{Langfuse, TerminalTree};
use tower::{ServiceExt as _, service_fn};
use tracing_subscriber::layer::SubscriberExt as _;

use self::{
    provider::{Provider, Reply, Settings},
    transport::Patience,
};

const PATIENCE: Patience =
    Patience { first_frame: Duration::from_secs(2), idle: Duration::from_secs(1), attempts: 3 };

#[tokio::main]
async fn main() -> ExitCode {
    let prompts: Vec<String> = std::env::args().skip(1).collect();
    if prompts.iter().any(|prompt| prompt.starts_with("--")) {
        complain("llm-client", "usage: llm-client [PROMPT]...");
        return ExitCode::from(2);
    }
    let prompts = if prompts.is_empty() { vec!["AAPL".to_owned()] } else { prompts };
    match run(prompts).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            complain("llm-client", error);
            ExitCode::from(2)
        }
    }
}

/// Asks each prompt; returns whether all were answered.
async fn run(prompts: Vec<String>) -> Result<bool, BoxError> {
    let tree = TerminalTree::new();
    let langfuse =
        Langfuse::from_env()?.service_name("llm-client").terminal(tree.clone()).start()?;
    let subscriber = tracing_subscriber::registry().with(langfuse.layer());
    tracing::subscriber::set_global_default(subscriber)?;
    let embedded = match variable("OPENAI_BASE_URL") {
        Some(_) => None,
        None => Some(EmbeddedModel::start().await?),
    };
    let [primary, long, backup] = providers(embedded.as_ref());
    let mut all_answered = true;
    for prompt in prompts {
        say(&format!("> {prompt}\n"));
        match ask([&primary, &long, &backup], prompt).await {
            Ok(reply) => say(&format!("\n  [{}, {} tokens]\n", reply.provider, reply.tokens)),
            Err(error) => {
                all_answered = false;
                say(&format!("\n  no answer: {}\n", provider::chain(&error)));
            }
        }
    }
    for provider in [&primary, &long, &backup] {
        let circuit = provider.circuit().snapshot();
        say(&format!("circuit {}: {}\n", provider.circuit().name(), circuit.state));
    }
    say(&tree.trees().join("\n"));
    deliver(langfuse).await?;
    Ok(all_answered)
}

/// A prompt that is too long goes to the longer model, and anything else that failed to the other
/// provider: spent credits at once, a fault after its retries. Once words were heard nobody else is
/// asked: what cut the answer comes through.
async fn ask(providers: [&Provider; 3], prompt: String) -> Result<Reply, Error> {
    let agent = |provider: &Provider| {
        let provider = provider.clone();
        service_fn(move |prompt| provider.clone().ask(prompt, say))
    };
    let [primary, long, backup] = providers.map(agent);
    let is_too_long = FailureKind::ContextWindowExceeded;
    let chain =
        FallbackService::new(primary).or_when(is_too_long, "long", long).or("backup", backup);
    chain.oneshot(prompt).await
}

fn providers(embedded: Option<&EmbeddedModel>) -> [Provider; 3] {
    let setting = |name: &str, default: String| variable(name).unwrap_or(default);
    let base_url = embedded.map_or_else(String::new, EmbeddedModel::base_url);
    let client = if embedded.is_some() { local_client() } else { reqwest::Client::new() };
    let provider = |name, model: &str, variable: &str, price| {
        let settings = Settings {
            name,
            base_url: setting("OPENAI_BASE_URL", base_url.clone()),
            key: setting("OPENAI_API_KEY", "none".to_owned()),
            model: setting(variable, model.to_owned()),
            price,
        };
        Provider::new(settings, client.clone(), PATIENCE)
    };
    [
        provider("primary", LARGE, "OPENAI_MODEL", (2.0, 8.0)),
        provider("long", LONG, "OPENAI_LONG_MODEL", (4.0, 16.0)),
        provider("backup", SMALL, "OPENAI_BACKUP_MODEL", (0.1, 0.4)),
    ]
}

/// Returns a variable of the environment; an empty one is as good as none.
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

fn say(text: &str) {
    let mut stdout = std::io::stdout().lock();
    // Nobody may read any more.
    drop(stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()));
}
