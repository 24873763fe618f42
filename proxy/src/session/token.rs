//! The token that a client carries: which endpoint it has been with and since when, sealed, so that only who has the key
//! can read or make one. AES-GCM-SIV, since many replicas draw nonces without knowing of each other's: one that is drawn
//! twice gives nothing away but that two tokens are the same.

use aws_lc_rs::{
    aead::{AES_256_GCM_SIV, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    digest::{SHA256, digest},
    error::Unspecified,
    rand,
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

/// Bytes of a token before they are sealed: four numbers.
const PLAIN: usize = 32;
const TAG: usize = 16;

/// What a token says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Token {
    /// When the session began, in milliseconds since 1970.
    pub(crate) issued: u64,
    /// When the token was made, likewise.
    pub(crate) seen: u64,
    /// [`identity`] of the Service.
    pub(crate) service: u64,
    /// [`identity`] of the workload.
    pub(crate) endpoint: u64,
}

/// Seals and opens tokens.
#[derive(Debug)]
pub(crate) struct Sealer(LessSafeKey);

impl Sealer {
    /// Of a seed that all replicas know.
    pub(crate) fn new(seed: &str) -> Result<Self, String> {
        let key = digest(&SHA256, format!("weft session 1\n{seed}").as_bytes());
        let key = UnboundKey::new(&AES_256_GCM_SIV, key.as_ref());
        let key = key.map_err(|_| "the key of sessions cannot be used".to_owned())?;
        Ok(Self(LessSafeKey::new(key)))
    }

    /// The token as text, for use in `scope` only.
    pub(crate) fn seal(&self, token: &Token, scope: &str) -> Result<String, Unspecified> {
        let mut nonce = [0; NONCE_LEN];
        rand::fill(&mut nonce)?;
        let mut bytes = Vec::with_capacity(NONCE_LEN + PLAIN + TAG);
        bytes.extend_from_slice(&nonce);
        for number in [token.issued, token.seen, token.service, token.endpoint] {
            bytes.extend_from_slice(&number.to_be_bytes());
        }
        let nonce = Nonce::assume_unique_for_key(nonce);
        let sealed = &mut bytes[NONCE_LEN..];
        let tag = self.0.seal_in_place_separate_tag(nonce, Aad::from(scope), sealed)?;
        bytes.extend_from_slice(tag.as_ref());
        Ok(URL_SAFE_NO_PAD.encode(bytes))
    }

    /// What a text says, if it is a token that was made here for `scope`.
    pub(crate) fn open(&self, text: &[u8], scope: &str) -> Option<Token> {
        const LENGTH: usize = NONCE_LEN + PLAIN + TAG;
        // Nothing that a client sends is decoded unless it has the length of a token.
        if text.len() != (LENGTH * 4).div_ceil(3) {
            return None;
        }
        let mut bytes = [0; LENGTH + 2];
        let length = URL_SAFE_NO_PAD.decode_slice(text, &mut bytes).ok()?;
        let (nonce, sealed) = bytes.get_mut(..length)?.split_first_chunk_mut::<NONCE_LEN>()?;
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let plain = self.0.open_in_place(nonce, Aad::from(scope), sealed).ok()?;
        let (numbers, _) = plain.as_chunks::<8>();
        let [issued, seen, service, endpoint] = numbers else {
            return None;
        };
        Some(Token {
            issued: u64::from_be_bytes(*issued),
            seen: u64::from_be_bytes(*seen),
            service: u64::from_be_bytes(*service),
            endpoint: u64::from_be_bytes(*endpoint),
        })
    }
}

/// A number for a name, the same in every process and every version (FNV-1a). Only names that the operator gave are told
/// apart by it, so it needs no secret.
pub(crate) fn identity(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: Token = Token {
        issued: 1,
        seen: 2,
        service: 3,
        endpoint: u64::MAX,
    };

    #[test]
    fn every_replica_reads_what_another_has_sealed() {
        let (one, other) = (Sealer::new("uid").expect("a key"), Sealer::new("uid").expect("a key"));
        let text = one.seal(&TOKEN, "a").expect("sealed");
        assert_eq!(other.open(text.as_bytes(), "a"), Some(TOKEN));
        assert_ne!(
            text,
            one.seal(&TOKEN, "a").expect("sealed"),
            "tokens cannot be told to be alike"
        );
    }

    #[test]
    fn what_was_not_made_here_and_for_this_is_no_token() {
        let sealer = Sealer::new("uid").expect("a key");
        let text = sealer.seal(&TOKEN, "a").expect("sealed");
        assert_eq!(sealer.open(text.as_bytes(), "b"), None, "of another rule");
        let other = Sealer::new("other").expect("a key");
        assert_eq!(other.open(text.as_bytes(), "a"), None, "by another key");
        for at in 0..text.len() {
            let mut forged = text.clone().into_bytes();
            forged[at] = if forged[at] == b'A' { b'B' } else { b'A' };
            assert_eq!(sealer.open(&forged, "a"), None, "changed at {at}");
        }
        for other in ["", "10.0.0.1:8080", &text[1..], &format!("{text}A")] {
            assert_eq!(sealer.open(other.as_bytes(), "a"), None, "{other}");
        }
    }

    #[test]
    fn identities_never_change() {
        assert_eq!(identity("a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(identity("foobar"), 0x8594_4171_f739_67e8);
    }
}
