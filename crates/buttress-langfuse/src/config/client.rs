//! The same settings for reading.

use http::Uri;

use super::{LangfuseBuilder, StartError};
use crate::{
    client::{Access, ClientError, LangfuseClient},
    delivery::Limits,
    text::has_user,
};

impl LangfuseBuilder {
    /// Makes a client that reads, with the keys, address, time limit and delays of this builder.
    ///
    /// Reading may take longer than sending: below 30 s the time limit is 30 s, unless
    /// [`LangfuseClient::timeout`] says otherwise.
    ///
    /// # Errors
    ///
    /// The variable that is missing, or whose value cannot be used.
    pub fn client(self) -> Result<LangfuseClient, ClientError> {
        let key = |key: &Option<String>| {
            key.as_deref().map(str::trim).filter(|key| !key.is_empty()).map(str::to_owned)
        };
        let (public, secret) = (key(&self.public_key), key(&self.secret_key));
        let (Some(public_key), Some(secret_key)) = (&public, &secret) else {
            return Err(ClientError::MissingKeys {
                public: public.is_none(),
                secret: secret.is_none(),
            });
        };
        if has_user(&self.base_url) {
            return Err(ClientError::Settings(StartError::UserInBaseUrl));
        }
        let base = self.base_url.trim().trim_end_matches('/');
        let is_http = |uri: &Uri| matches!(uri.scheme_str(), Some("http" | "https"));
        match base.parse::<Uri>() {
            Ok(uri) if is_http(&uri) && uri.host().is_some() && uri.query().is_none() => {}
            _ => return Err(ClientError::Settings(StartError::BaseUrl)),
        }
        let Limits { timeout, retry_base, retry_max, .. } = self.limits;
        let access = Access::new(base, public_key, secret_key)?;
        Ok(LangfuseClient::new(access, timeout, retry_base, retry_max))
    }
}
