//! Where the language model is.

use std::fmt;

use http::{HeaderValue, Uri};
use serde::{Deserialize, Serialize};

use crate::text::Secrets;

const OPENAI: &str = "https://api.openai.com/v1";
const MODEL: &str = "gpt-4.1";
const BACKUP_MODEL: &str = "gpt-4.1-mini";

/// An OpenAI-compatible endpoint and the models to ask there.
#[derive(Debug, Clone)]
pub(crate) struct Endpoint {
    /// Without a key.
    base_url: String,
    chat: Uri,
    /// Marked as sensitive, so `Debug` does not show it.
    authorization: Option<HeaderValue>,
    model: String,
    backup_model: Option<String>,
    secrets: Secrets,
}

/// What an endpoint is for people: where it is, without a key, and what is asked there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Source {
    pub(crate) base_url: String,
    pub(crate) model: String,
    pub(crate) backup_model: Option<String>,
}

/// What the environment says about the endpoint, unchecked; an empty variable is none.
#[derive(Debug, Clone, Default)]
pub(crate) struct Settings {
    pub(crate) base_url: Option<String>,
    pub(crate) api_key: Option<String>,
    pub(crate) model: Option<String>,
    pub(crate) backup_model: Option<String>,
}

/// A setting that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct InvalidSetting(String);

// ===== impl Settings =====

impl Settings {
    /// Reads the variables that OpenAI's own clients read.
    pub(crate) fn from_env() -> Self {
        let read = |name| std::env::var(name).ok().filter(|value| !value.trim().is_empty());
        Self {
            base_url: read("OPENAI_BASE_URL"),
            api_key: read("OPENAI_API_KEY"),
            model: read("OPENAI_MODEL"),
            backup_model: read("OPENAI_BACKUP_MODEL"),
        }
    }

    /// Returns the endpoint, or none where the settings name none.
    pub(crate) fn endpoint(self) -> Result<Option<Endpoint>, InvalidSetting> {
        let base_url = match (self.base_url, &self.api_key) {
            (Some(base_url), _) => base_url,
            (None, Some(_)) => OPENAI.to_owned(),
            (None, None) => return Ok(None),
        };
        let backup_model = match (&self.model, self.backup_model) {
            // Only OpenAI's own default has a weaker model that surely exists.
            (None, None) => Some(BACKUP_MODEL.to_owned()),
            (_, backup_model) => backup_model,
        };
        let model = self.model.unwrap_or_else(|| MODEL.to_owned());
        Endpoint::new(&base_url, self.api_key.as_deref(), model, backup_model).map(Some)
    }
}

// ===== impl Endpoint =====

impl Endpoint {
    pub(crate) fn new(
        base_url: &str,
        api_key: Option<&str>,
        model: String,
        backup_model: Option<String>,
    ) -> Result<Self, InvalidSetting> {
        let base_url = base_url.trim().trim_end_matches('/');
        let chat = chat_address(base_url)?;
        let authorization = api_key.map(bearer).transpose()?;
        if [Some(&model), backup_model.as_ref()].into_iter().flatten().any(|name| is_odd(name)) {
            let problem = "OPENAI_MODEL and OPENAI_BACKUP_MODEL must not hold control characters";
            return Err(InvalidSetting(problem.to_owned()));
        }
        let secrets = Secrets::new(api_key);
        let base_url = secrets.hide(base_url);
        Ok(Self { base_url, chat, authorization, model, backup_model, secrets })
    }

    /// Returns the address that the user gave, for people.
    pub(crate) fn base_url(&self) -> &str {
        &self.base_url
    }

    /// Returns the address of chat completions.
    pub(crate) const fn chat(&self) -> &Uri {
        &self.chat
    }

    /// Returns the header that carries the key.
    pub(crate) const fn authorization(&self) -> Option<&HeaderValue> {
        self.authorization.as_ref()
    }

    /// Returns what answers must not repeat.
    pub(crate) const fn secrets(&self) -> &Secrets {
        &self.secrets
    }

    /// Returns the model that is asked first.
    pub(crate) fn model(&self) -> &str {
        &self.model
    }

    /// Returns the model to fall back to.
    pub(crate) fn backup_model(&self) -> Option<&str> {
        self.backup_model.as_deref()
    }
}

impl From<&Endpoint> for Source {
    fn from(endpoint: &Endpoint) -> Self {
        Self {
            base_url: endpoint.base_url.clone(),
            model: endpoint.model.clone(),
            backup_model: endpoint.backup_model.clone(),
        }
    }
}

/// Reads the address; what is wrong with it is told without showing it, since it may be a key.
fn chat_address(base_url: &str) -> Result<Uri, InvalidSetting> {
    let wrong = |what: String| InvalidSetting(format!("OPENAI_BASE_URL must {what}"));
    if base_url.contains(['?', '#']) {
        return Err(wrong("not hold a query or a fragment".to_owned()));
    }
    let chat: Option<Uri> = format!("{base_url}/chat/completions").parse().ok();
    let is_http = |chat: &Uri| {
        matches!(chat.scheme_str(), Some("http" | "https"))
            && chat.host().is_some_and(|host| !host.is_empty())
    };
    let chat = chat.filter(is_http);
    let chat =
        chat.ok_or_else(|| wrong(format!("be an http or https address such as {OPENAI}")))?;
    if chat.authority().is_some_and(|authority| authority.as_str().contains('@')) {
        let what = "not hold a user or password; OPENAI_API_KEY is for the key";
        return Err(wrong(what.to_owned()));
    }
    Ok(chat)
}

fn is_odd(name: &str) -> bool {
    name.chars().any(char::is_control)
}

fn bearer(api_key: &str) -> Result<HeaderValue, InvalidSetting> {
    let mut header = HeaderValue::from_str(&format!("Bearer {}", api_key.trim()))
        .map_err(|_| InvalidSetting("OPENAI_API_KEY holds characters no key has".to_owned()))?;
    header.set_sensitive(true);
    Ok(header)
}

// ===== impl InvalidSetting =====

impl fmt::Display for InvalidSetting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for InvalidSetting {}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(value: &str) -> Option<String> {
        Some(value.to_owned())
    }

    #[test]
    fn nothing_set_is_no_endpoint() {
        let model_alone = Settings { model: text("llama3"), ..Settings::default() };
        assert!(model_alone.endpoint().unwrap().is_none());
    }

    #[test]
    fn a_key_alone_means_openai_with_its_models() {
        let settings = Settings { api_key: text("sk-secret"), ..Settings::default() };
        let endpoint = settings.endpoint().unwrap().unwrap();
        assert_eq!(endpoint.chat(), "https://api.openai.com/v1/chat/completions");
        assert_eq!((endpoint.model(), endpoint.backup_model()), (MODEL, Some(BACKUP_MODEL)));
        assert!(!format!("{endpoint:?}").contains("sk-secret"));
    }

    #[test]
    fn a_model_of_ones_own_has_no_backup_but_a_named_one() {
        let mut settings = Settings {
            base_url: text("http://localhost:11434/v1/"),
            model: text("llama3"),
            ..Settings::default()
        };
        let endpoint = settings.clone().endpoint().unwrap().unwrap();
        assert_eq!(endpoint.chat(), "http://localhost:11434/v1/chat/completions");
        assert_eq!(endpoint.backup_model(), None);
        assert!(endpoint.authorization().is_none());

        settings.backup_model = text("phi4");
        assert_eq!(settings.endpoint().unwrap().unwrap().backup_model(), Some("phi4"));
    }

    #[test]
    fn a_wrong_address_is_named() {
        for wrong in ["localhost", "ftp://example.org/v1", "http://", "http:///v1"] {
            let settings = Settings { base_url: text(wrong), ..Settings::default() };
            let error = settings.endpoint().unwrap_err();
            assert!(error.to_string().starts_with("OPENAI_BASE_URL must be"), "{wrong}: {error}");
        }
    }

    #[test]
    fn a_secret_in_the_address_is_refused_and_not_shown() {
        for wrong in [
            "https://me:sk-secret@example.org/v1",
            "https://sk-secret@example.org/v1",
            "ftp://me:sk-secret@example.org/v1",
            "https://example.org/v1?key=sk-secret",
            "sk-secret",
        ] {
            let settings = Settings { base_url: text(wrong), ..Settings::default() };
            let error = settings.endpoint().unwrap_err().to_string();
            assert!(error.starts_with("OPENAI_BASE_URL must "), "{error}");
            assert!(!error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn a_key_in_the_path_is_sent_but_not_shown() {
        let settings = Settings {
            base_url: text("https://example.org/sk-secret/v1"),
            api_key: text("sk-secret"),
            ..Settings::default()
        };
        let endpoint = settings.endpoint().unwrap().unwrap();
        assert_eq!(endpoint.chat().path(), "/sk-secret/v1/chat/completions");
        assert_eq!(endpoint.base_url(), "https://example.org/(hidden)/v1");
    }

    #[test]
    fn a_model_that_steers_the_terminal_is_refused() {
        let settings = Settings {
            base_url: text("https://example.org/v1"),
            model: text("\x1b[31mllama3"),
            ..Settings::default()
        };
        assert!(settings.endpoint().unwrap_err().to_string().starts_with("OPENAI_MODEL and "));
    }
}
