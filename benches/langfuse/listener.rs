//! Who sees the spans.

use std::{path::Path, time::Duration};

use buttress_benches::listen::Listening;
use buttress_langfuse::{Durability, Langfuse};
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing_subscriber::layer::SubscriberExt as _;

/// How long the spans of a round may take to be delivered.
const PATIENCE: Duration = Duration::from_secs(60);

/// Somebody to whom spans go, or nobody.
#[derive(Debug, Clone)]
pub(crate) enum Listener {
    Nobody,
    Langfuse(Langfuse),
    /// tracing-opentelemetry with the batch exporter that comes with OpenTelemetry.
    Stock(SdkTracerProvider),
}

/// All of them, each with its name.
#[derive(Debug)]
pub(crate) struct Listeners(pub(crate) [(&'static str, Listener); 5]);

pub(crate) const NOBODY: &str = "no subscriber";
pub(crate) const MEMORY: &str = "ours, Memory";
pub(crate) const PROCESS: &str = "ours, Process";
pub(crate) const DISK: &str = "ours, Disk";
pub(crate) const STOCK: &str = "tracing-opentelemetry, batch exporter";

// ===== impl Listeners =====

impl Listeners {
    /// Starts the deliveries.
    pub(crate) fn start(base_url: &str, spools: &Path) -> Result<Self, String> {
        let ours = |durability: Durability| {
            Langfuse::builder()
                .public_key("pk-lf-bench")
                .secret_key("sk-lf-bench")
                .base_url(base_url)
                .environment("bench")
                .release("1")
                .durability(durability)
                .spool(spools.join(format!("{durability:?}")))
                .start()
                .map(Listener::Langfuse)
                .map_err(|error| error.to_string())
        };
        let exporter = SpanExporter::builder()
            .with_http()
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(format!("{base_url}/api/public/otel/v1/traces"))
            .build()
            .map_err(|error| error.to_string())?;
        let stock = SdkTracerProvider::builder().with_batch_exporter(exporter).build();
        Ok(Self([
            (NOBODY, Listener::Nobody),
            (MEMORY, ours(Durability::Memory)?),
            (PROCESS, ours(Durability::Process)?),
            (DISK, ours(Durability::Disk)?),
            (STOCK, Listener::Stock(stock)),
        ]))
    }

    pub(crate) fn named(&self, name: &str) -> &Listener {
        let found = self.0.iter().find(|(known, _)| *known == name);
        &found.expect("there is one of each name").1
    }

    /// Says what became of the spans.
    pub(crate) fn delivery(&self) -> Vec<(&'static str, buttress_langfuse::Stats)> {
        let stats = self.0.iter().filter_map(|(name, listener)| match listener {
            Listener::Langfuse(langfuse) => Some((*name, langfuse.stats())),
            Listener::Nobody | Listener::Stock(_) => None,
        });
        stats.collect()
    }
}

// ===== impl Listener =====

impl Listener {
    /// Listens until what it returns is dropped.
    pub(crate) fn listen(&self) -> Listening {
        let registry = tracing_subscriber::registry();
        let dispatch = match self {
            Self::Nobody => None,
            Self::Langfuse(langfuse) => Some(registry.with(langfuse.layer()).into()),
            Self::Stock(provider) => {
                let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("bench"));
                Some(registry.with(layer).into())
            }
        };
        let listener = self.clone();
        Listening::to(dispatch, move || listener.deliver())
    }

    /// Delivers what is left.
    pub(crate) fn deliver(&self) {
        match self {
            Self::Nobody => {}
            Self::Langfuse(langfuse) => {
                langfuse.flush(PATIENCE).expect("the server takes every span");
            }
            Self::Stock(provider) => {
                provider.force_flush().expect("the server takes every span");
            }
        }
    }
}
