//! A token that both sides know and that neither sends: each proves that it knows it (HMAC-SHA256,
//! RFC 2104, over two numbers that were never used before).

use std::path::Path;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use ring::hmac::{self, HMAC_SHA256};
use ring::rand::{SecureRandom, SystemRandom};

use crate::error::Error;
use crate::input;

/// Who listens to a handshake could try all that are shorter.
const SHORTEST: usize = 16;

/// What the other side has to know; without a token nothing is secret.
#[derive(Clone)]
pub struct Secret {
    key: hmac::Key,
    /// There is a token.
    pub(super) is_set: bool,
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Secret").field("is_set", &self.is_set).finish_non_exhaustive()
    }
}

/// Whose proof it is: the one of the one side is of no use to the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Agent,
    Controller,
}

impl Secret {
    /// The first line of a file, if one is named.
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

    /// That `side` knows the token, to whom made the other of the two numbers.
    pub(super) fn proof(&self, side: Side, nonces: &Nonces) -> String {
        BASE64_STANDARD.encode(hmac::sign(&self.key, &nonces.said_by(side)))
    }

    /// Whether `proof` shows that.
    pub(super) fn is_proof(&self, proof: &str, side: Side, nonces: &Nonces) -> bool {
        let Ok(proof) = BASE64_STANDARD.decode(proof) else { return false };
        hmac::verify(&self.key, &nonces.said_by(side), &proof).is_ok()
    }
}

/// The numbers of a handshake.
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
        // A line end stands in none of them.
        format!("{side}\n{}\n{}", self.agent, self.controller).into_bytes()
    }
}

/// A number that was never used before.
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
