//! A shared token that is never sent: each side proves that it knows the token
//! (HMAC-SHA256, RFC 2104, over two fresh nonces).

use std::path::Path;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use ring::hmac::{self, HMAC_SHA256};
use ring::rand::{SecureRandom, SystemRandom};

use crate::error::Error;
use crate::input;

/// Shorter tokens could be found by brute force from an intercepted handshake.
const SHORTEST: usize = 16;

/// The key that both sides must know; without a token it is empty and protects nothing.
#[derive(Clone)]
pub struct Secret {
    key: hmac::Key,
    /// Whether there is a token.
    pub(super) is_set: bool,
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Secret").field("is_set", &self.is_set).finish_non_exhaustive()
    }
}

/// The side that makes a proof; a proof of one side is not valid for the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Agent,
    Controller,
}

impl Secret {
    /// Loads the token from the first non-empty line of `file`, if a file is given.
    pub fn load(file: Option<&Path>) -> anyhow::Result<Self> {
        let Some(file) = file else {
            return Ok(Self { key: hmac::Key::new(HMAC_SHA256, &[]), is_set: false });
        };
        let shown = file.display().to_string();
        let text = input::read_text(file, input::SMALL)?;
        let token = text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
        if token.len() < SHORTEST {
            let text = format!(
                "{shown}: a token has {SHORTEST} characters at least; make one with: openssl rand -hex 32"
            );
            return Err(Error::Usage(text).into());
        }
        Ok(Self { key: hmac::Key::new(HMAC_SHA256, token.as_bytes()), is_set: true })
    }

    /// Proof that `side` knows the token, for the side that chose the other nonce.
    pub(super) fn proof(&self, side: Side, nonces: &Nonces) -> String {
        BASE64_STANDARD.encode(hmac::sign(&self.key, &nonces.said_by(side)))
    }

    /// Whether `proof` is a valid proof of `side`.
    pub(super) fn is_proof(&self, proof: &str, side: Side, nonces: &Nonces) -> bool {
        let Ok(proof) = BASE64_STANDARD.decode(proof) else { return false };
        hmac::verify(&self.key, &nonces.said_by(side), &proof).is_ok()
    }
}

/// The nonces of a handshake.
#[derive(Debug)]
pub(super) struct Nonces {
    pub(super) agent: String,
    pub(super) controller: String,
}

impl Nonces {
    fn said_by(&self, side: Side) -> Vec<u8> {
        let side = match side {
            Side::Agent => "agent",
            Side::Controller => "controller",
        };
        // None of the parts contains a line end.
        format!("{side}\n{}\n{}", self.agent, self.controller).into_bytes()
    }
}

/// A fresh random nonce.
pub(super) fn nonce() -> anyhow::Result<String> {
    let mut bytes = [0; 32];
    let filled = SystemRandom::new().fill(&mut bytes);
    filled.map_err(|_| anyhow::anyhow!("this machine has no random numbers"))?;
    Ok(BASE64_STANDARD.encode(bytes))
}

#[cfg(test)]
mod tests {
    use super::{Nonces, Secret, Side, nonce};

    fn secret(token: &str) -> Secret {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), format!("\n{token}\n")).unwrap();
        Secret::load(Some(file.path())).unwrap()
    }

    #[test]
    fn who_knows_the_token_can_prove_it_once_and_in_its_own_name() {
        let (secret, other) = (secret("0123456789abcdef"), secret("0123456789abcdeF"));
        let nonces = || Nonces { agent: nonce().unwrap(), controller: nonce().unwrap() };
        let now = nonces();
        let proof = secret.proof(Side::Controller, &now);
        assert!(secret.is_proof(&proof, Side::Controller, &now));
        assert!(!secret.is_proof(&proof, Side::Agent, &now), "sent back");
        assert!(!secret.is_proof(&proof, Side::Controller, &nonces()), "sent again");
        assert!(!other.is_proof(&proof, Side::Controller, &now));
        assert!(!secret.is_proof("", Side::Controller, &now));
        let none = Secret::load(None).unwrap();
        assert!(!none.is_proof(&proof, Side::Controller, &now) && !none.is_set);
    }

    #[test]
    fn a_token_that_can_be_guessed_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for text in ["", "\n", "secret\n0123456789abcdef"] {
            std::fs::write(file.path(), text).unwrap();
            assert!(Secret::load(Some(file.path())).is_err(), "{text:?}");
        }
    }
}
