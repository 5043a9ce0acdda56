//! Tokens for people and programs: made, shown once, kept as hashes, looked up with every request, revoked at once.
//!
//! The token that the controller draws at its first start lies in `admin.token` and is not in this list: it is the way in when
//! every other one is lost, and whoever can read that file owns the controller anyway. What stays true: a token that is revoked
//! or over counts for nothing from that moment, also for browsers that signed in with it. When a token was used last is told to
//! the minute and written down once a minute: a lost minute of that is harmless, a write per request is not.
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use leeway_protocol::digest::Digest;
use leeway_protocol::time::Timestamp;
use serde_json::json;

use super::super::clock;
use super::super::store::{Batch, Kind, Write};
use super::decisions::{draft, reason};
use super::enrol::secret;
use super::{ControlError, Controller, Inner, document};
use crate::access::{ADMIN, AccessToken, Principal, Scope, check};

/// In front of every token, so that scanners of repositories and logs find one that leaked.
const PREFIX: &str = "leeway_pat_";
/// Tokens that are kept at one time: each is a person or a program.
const MAX_TOKENS: usize = 1_000;
/// Time between two looks at which tokens were used.
const REMEMBER: Duration = Duration::from_secs(60);

/// A token that is to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewAccessToken {
    /// What it is called.
    pub name: String,
    /// Whom it stands for.
    pub owner: String,
    /// What it may do.
    pub scope: Scope,
    /// How long, milliseconds.
    pub ttl_ms: i64,
}

/// Who holds which token, by its hash.
#[derive(Debug)]
pub(in crate::io) struct Holders {
    admin: Digest,
    issued: RwLock<BTreeMap<Digest, AccessToken>>,
    /// When each was used since that was last written down.
    used: Mutex<BTreeMap<Digest, Timestamp>>,
}

impl Holders {
    pub(in crate::io) fn new(admin_token: &str, issued: BTreeMap<Digest, AccessToken>) -> Self {
        Self { admin: Digest::of(admin_token.as_bytes()), issued: RwLock::new(issued), used: Mutex::default() }
    }

    fn find(&self, token: &Digest, now: Timestamp) -> Option<Principal> {
        if *token == self.admin {
            return Some(Principal { name: ADMIN.to_owned(), scope: Scope::Admin });
        }
        let issued = self.issued.read().unwrap_or_else(PoisonError::into_inner);
        let found = issued.get(token).filter(|held| held.is_valid(now))?.principal();
        self.used.lock().unwrap_or_else(PoisonError::into_inner).insert(*token, now);
        Some(found)
    }

    /// Everything that is kept, with the last use as it is known now.
    fn all(&self) -> Vec<(Digest, AccessToken)> {
        let issued = self.issued.read().unwrap_or_else(PoisonError::into_inner);
        let used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        let with_use = |(hash, token): (&Digest, &AccessToken)| {
            let last_used = used.get(hash).copied().max(token.last_used);
            (*hash, AccessToken { last_used, ..token.clone() })
        };
        issued.iter().map(with_use).collect()
    }
}

impl Controller {
    /// Whose token this is, if it counts now.
    pub fn principal(&self, bearer: &str) -> Option<Principal> {
        // Looked up by hash: the time it takes says nothing about the token.
        self.holder(&Digest::of(bearer.as_bytes()))
    }

    /// The same by the token's hash.
    pub(in crate::io) fn holder(&self, token: &Digest) -> Option<Principal> {
        self.inner.access.holders.find(token, clock::now())
    }

    /// A new token; shown once, kept as a hash. Those that are over make room.
    pub async fn create_access_token(&self, new: NewAccessToken, by: &str) -> Result<(String, AccessToken), ControlError> {
        check(&new.name, &new.owner, new.ttl_ms).map_err(|e| ControlError::Invalid(e.to_string()))?;
        let text = format!("{PREFIX}{}", secret()?);
        let hash = Digest::of(text.as_bytes());
        let _turn = self.inner.turn.lock().await;
        let at = clock::now();
        let held = self.inner.access.holders.all();
        let over: Vec<Digest> = held.iter().filter(|(_, token)| !token.is_valid(at)).map(|(hash, _)| *hash).collect();
        if held.iter().any(|(_, token)| token.name == new.name && token.is_valid(at)) {
            return Err(ControlError::Conflict(format!("there is a token {} already: revoke it first, or choose another name", new.name)));
        }
        if held.len() - over.len() >= MAX_TOKENS {
            return Err(ControlError::Conflict(format!("there are {MAX_TOKENS} tokens, which is the bound: revoke some first")));
        }
        let NewAccessToken { name, owner, scope, ttl_ms } = new;
        let (made_by, expires_at) = (by.to_owned(), at.plus_millis(ttl_ms));
        let token = AccessToken { name, owner, scope, made_at: at, made_by, expires_at, last_used: None };
        let sentence = format!("A token {:?} of scope {scope} was made for {}, good until {}.", token.name, token.owner, token.expires_at);
        let data = json!({ "name": token.name, "owner": token.owner, "scope": scope });
        let event = draft(at, by, "token.granted", "tokens".to_owned(), sentence, data);
        let mut writes: Vec<Write> = over.iter().map(|hash| Write::Delete { kind: Kind::Access, key: hash.hex() }).collect();
        writes.push(document(Kind::Access, hash.hex(), Some(&token))?);
        self.inner.store.commit(Batch { at, writes, events: vec![event], urgent: true }).await?;
        let mut issued = self.inner.access.holders.issued.write().unwrap_or_else(PoisonError::into_inner);
        issued.retain(|hash, _| !over.contains(hash));
        issued.insert(hash, token.clone());
        Ok((text, token))
    }

    /// The tokens that are kept, by name. The controller's own is not among them.
    pub fn access_tokens(&self) -> Vec<AccessToken> {
        let mut tokens: Vec<AccessToken> = self.inner.access.holders.all().into_iter().map(|(_, token)| token).collect();
        tokens.sort_by(|a, b| (&a.name, a.made_at).cmp(&(&b.name, b.made_at)));
        tokens
    }

    /// End a token, at once.
    pub async fn revoke_access_token(&self, name: &str, why: &str, by: &str) -> Result<(), ControlError> {
        let why = reason(why)?;
        let _turn = self.inner.turn.lock().await;
        let at = clock::now();
        let held = self.inner.access.holders.all();
        let ended: Vec<&(Digest, AccessToken)> = held.iter().filter(|(_, token)| token.name == name).collect();
        let Some((_, token)) = ended.last() else {
            let shown: String = name.chars().take(80).collect();
            return Err(ControlError::NotFound(format!("there is no token {shown:?}: `leeway token list` shows those that exist")));
        };
        let sentence = format!("The token {:?} of {} was revoked: {why}", token.name, token.owner);
        let data = json!({ "name": token.name, "owner": token.owner, "scope": token.scope });
        let event = draft(at, by, "token.revoked", "tokens".to_owned(), sentence, data);
        let writes = ended.iter().map(|(hash, _)| Write::Delete { kind: Kind::Access, key: hash.hex() }).collect();
        self.inner.store.commit(Batch { at, writes, events: vec![event], urgent: true }).await?;
        let mut issued = self.inner.access.holders.issued.write().unwrap_or_else(PoisonError::into_inner);
        ended.iter().for_each(|(hash, _)| drop(issued.remove(hash)));
        Ok(())
    }
}

/// Write down, once a minute, which tokens were used.
pub(in crate::io) async fn remember(inner: Arc<Inner>) {
    loop {
        tokio::time::sleep(REMEMBER).await;
        if let Err(error) = note_use(&inner).await {
            tracing::warn!("when tokens were used last was not written down: {error}; trying again");
        }
    }
}

/// Write down which tokens were used since the last time.
pub(in crate::io) async fn note_use(inner: &Inner) -> Result<(), ControlError> {
    let _turn = inner.turn.lock().await;
    let holders = &inner.access.holders;
    let used: Vec<Digest> = holders.used.lock().unwrap_or_else(PoisonError::into_inner).keys().copied().collect();
    let tokens: Vec<(Digest, AccessToken)> = holders.all().into_iter().filter(|(hash, _)| used.contains(hash)).collect();
    if tokens.is_empty() {
        return Ok(());
    }
    let writes = tokens.iter().map(|(hash, token)| document(Kind::Access, hash.hex(), Some(token))).collect::<Result<_, _>>()?;
    inner.store.commit(Batch { at: clock::now(), writes, events: Vec::new(), urgent: false }).await?;
    let mut issued = holders.issued.write().unwrap_or_else(PoisonError::into_inner);
    let mut used = holders.used.lock().unwrap_or_else(PoisonError::into_inner);
    for (hash, token) in tokens {
        // Used again meanwhile: that is written down the next time.
        if used.get(&hash).copied() <= token.last_used {
            used.remove(&hash);
        }
        issued.insert(hash, token);
    }
    used.retain(|hash, _| issued.contains_key(hash));
    Ok(())
}
