//! The token that lets an operator act.

use std::fmt;

use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

/// The shortest token that is taken, in bytes.
const LEAST: usize = 16;

/// A token, as its digest: neither the token nor its length is compared or kept.
#[derive(Clone)]
pub(crate) struct Token([u8; 32]);

/// Why a token is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum TokenError {
    /// It could be guessed.
    TooShort {
        /// The least number of bytes.
        least: usize,
    },
    /// It has a space or a sign that no HTTP header carries.
    NotVisibleAscii,
}

// ===== impl Token =====

impl Token {
    pub(crate) fn new(token: &str) -> Result<Self, TokenError> {
        if token.len() < LEAST {
            return Err(TokenError::TooShort { least: LEAST });
        }
        if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(TokenError::NotVisibleAscii);
        }
        Ok(Self(Sha256::digest(token).into()))
    }

    /// Compares in constant time.
    pub(crate) fn is(&self, offered: &[u8]) -> bool {
        let offered: [u8; 32] = Sha256::digest(offered).into();
        self.0.ct_eq(&offered).into()
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token")
    }
}

// ===== impl TokenError =====

impl fmt::Display for TokenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooShort { least } => {
                write!(f, "a control token must have at least {least} bytes")
            }
            Self::NotVisibleAscii => {
                f.write_str("a control token must be of visible ASCII, without spaces")
            }
        }
    }
}

impl std::error::Error for TokenError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_that_could_be_guessed_or_not_be_sent_is_refused() {
        let too_short = Some(TokenError::TooShort { least: 16 });
        assert_eq!(Token::new("").err(), too_short);
        assert_eq!(Token::new("fifteen-bytes-1").err(), too_short);
        assert_eq!(Token::new("sixteen bytes-16").err(), Some(TokenError::NotVisibleAscii));
        assert_eq!(Token::new("umlaut-\u{e4}-umlaut-1").err(), Some(TokenError::NotVisibleAscii));
        assert!(Token::new("sixteen-bytes-16").is_ok());
    }

    #[test]
    fn only_the_token_itself_is_the_token() {
        let token = Token::new("sixteen-bytes-16").unwrap();
        assert!(token.is(b"sixteen-bytes-16"));
        for other in ["", "sixteen-bytes-1", "sixteen-bytes-17", "sixteen-bytes-16 "] {
            assert!(!token.is(other.as_bytes()), "{other:?}");
        }
        assert_eq!(format!("{token:?}"), "Token");
    }
}
