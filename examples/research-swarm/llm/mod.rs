//! Language models: what is asked, who answers, and what the answers mean.

mod chat;
mod client;
mod endpoint;
mod failures;
mod faults;
mod reply;
mod server;

pub(crate) use self::{
    chat::{ChatModel, Question},
    client::{HttpClient, HttpError},
    endpoint::{Endpoint, InvalidSetting, Settings, Source},
    failures::{CallFailure, CallFailures},
    faults::Faults,
    reply::{ChatClassifier, Reply},
    server::EmbeddedServer,
};
