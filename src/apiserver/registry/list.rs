//! LIST: versions, limits and continue tokens.

use std::sync::Arc;

use api::{FieldError, GroupKind, Path, Reason, Status};
use base64::Engine as _;
use base64::alphabet::URL_SAFE;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, NO_PAD};
use serde::{Deserialize, Serialize};
use serde_json::json;
use store::{RangeRequest, Revision};

use super::read::too_large;
use super::{Registry, Resource, store_error};
use crate::cache::{Cache, Entry, Filter, prefix_end};

const EXPIRED: &str = "The provided continue parameter is too old to display a consistent list \
    result. You can start a new list without the continue parameter, or use the continue token in \
    this response to retrieve the remainder of the results. Continuing with the provided token \
    results in an inconsistent list - objects that were created, modified, or deleted between the \
    time the first chunk was returned and now may show up in the list.";

/// As Go reads it, which does not mind bits left over at the end.
const TOKENS: GeneralPurpose = GeneralPurpose::new(&URL_SAFE, LENIENT);
const LENIENT: GeneralPurposeConfig = NO_PAD.with_decode_allow_trailing_bits(true);

/// `resourceVersionMatch`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum VersionMatch {
    #[default]
    Unset,
    NotOlderThan,
    Exact,
}

/// Which version of the list, and how much of it.
#[derive(Clone, Debug, Default)]
pub(crate) struct ListOptions {
    pub limit: usize,
    pub token: String,
    /// `None` when empty.
    pub resource_version: Option<u64>,
    pub version_match: VersionMatch,
}

/// A list, or a part of one.
pub(crate) struct ListResult {
    pub entries: Vec<Arc<Entry>>,
    pub revision: u64,
    /// Token for the rest; empty if this was the last part.
    pub token: String,
    /// How many objects follow, where that is known.
    pub remaining: Option<usize>,
}

/// A continue token, in upstream's encoding.
#[derive(Serialize, Deserialize)]
struct Token {
    #[serde(default)]
    v: String,
    #[serde(default)]
    rv: i64,
    #[serde(default)]
    start: String,
}

impl Token {
    fn encode(revision: i64, last: &str) -> String {
        let token = Self {
            v: "meta.k8s.io/v1".to_owned(),
            rv: revision,
            start: format!("{last}\0"),
        };
        TOKENS.encode(serde_json::to_vec(&token).expect("a token is JSON"))
    }

    fn decode(text: &str) -> Result<Self, Status> {
        let bad = |why: &str| {
            Status::bad_request(format!(
                "invalid continue token: continue key is not valid{why}"
            ))
        };
        let bytes = TOKENS.decode(text).map_err(|error| match error {
            base64::DecodeError::InvalidByte(at, _) => {
                bad(&format!(": illegal base64 data at input byte {at}"))
            }
            // Go counts to where the part that cannot be decoded begins.
            _ => bad(&format!(
                ": illegal base64 data at input byte {}",
                text.len() / 4 * 4
            )),
        })?;
        let token: Self = serde_json::from_slice(&bytes).map_err(|_| match bytes.first() {
            Some(b'{') => bad(": unexpected end of JSON input"),
            Some(byte) => bad(&format!(
                ": invalid character {} looking for beginning of value",
                go_character(*byte)
            )),
            None => bad(": unexpected end of JSON input"),
        })?;
        if token.v != "meta.k8s.io/v1" {
            return Err(bad(&format!(
                ": server does not recognize this encoded version {}",
                token.v
            )));
        }
        if token.rv == 0 {
            return Err(bad(
                ": incorrect encoded start resourceVersion (version meta.k8s.io/v1)",
            ));
        }
        if token.start.is_empty() {
            return Err(bad(": encoded start key empty (version meta.k8s.io/v1)"));
        }
        Ok(token)
    }
}

impl ListOptions {
    /// Checks which parameters go together: `ValidateListOptions`.
    pub(crate) fn check(&self) -> Result<(), Status> {
        let mut errors = Vec::new();
        let path = Path::new("resourceVersionMatch");
        match self.version_match {
            VersionMatch::Unset => {}
            matched => {
                if self.resource_version.is_none() {
                    errors.push(FieldError::forbidden(
                        &path,
                        "resourceVersionMatch is forbidden unless resourceVersion is provided",
                    ));
                }
                if !self.token.is_empty() {
                    errors.push(FieldError::forbidden(
                        &path,
                        "resourceVersionMatch is forbidden when continue is provided",
                    ));
                }
                if matched == VersionMatch::Exact && self.resource_version == Some(0) {
                    errors.push(FieldError::forbidden(
                        &path,
                        "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"",
                    ));
                }
            }
        }
        if errors.is_empty() {
            Ok(())
        } else {
            Err(Status::invalid(&list_options_kind(), "", &errors))
        }
    }
}

/// A byte as Go's JSON decoder quotes it.
fn go_character(byte: u8) -> String {
    match byte {
        b'\'' => r"'\''".to_owned(),
        b'"' => "'\"'".to_owned(),
        0x20..=0x7e => format!("'{}'", char::from(byte)),
        _ => format!("'\\x{byte:02x}'"),
    }
}

pub(super) fn list_options_kind() -> GroupKind {
    GroupKind {
        group: "meta.k8s.io".into(),
        kind: "ListOptions".into(),
    }
}

impl Registry {
    /// Lists a resource.
    pub(crate) async fn list(
        &self,
        resource: &Resource,
        filter: &Filter,
        options: &ListOptions,
    ) -> Result<ListResult, Status> {
        options.check()?;
        let cache = self.cache(resource).await?;
        if !options.token.is_empty() {
            if options.resource_version.is_some_and(|version| version != 0) {
                return Err(Status::bad_request(
                    "specifying resource version is not allowed when using continue",
                ));
            }
            let token = Token::decode(&options.token)?;
            let now = self.catch_up().await?;
            let Ok(revision) = u64::try_from(token.rv) else {
                return Ok(self.list_cached(&cache, filter, &token.start, options.limit));
            };
            if revision >= cache.changed() && revision <= now {
                // Nothing has changed since: memory is the list of that revision.
                let mut result = self.list_cached(&cache, filter, &token.start, options.limit);
                result.pin(revision);
                return Ok(result);
            }
            return self
                .list_stored(&cache, filter, &token.start, options.limit, revision)
                .await
                .map_err(|status| expired_page(status, &token.start));
        }
        match options.resource_version {
            None => {
                self.catch_up().await?;
            }
            Some(0) => return Ok(self.list_cached(&cache, filter, "", 0)),
            Some(version) => {
                let exact = options.version_match == VersionMatch::Exact
                    || (options.version_match == VersionMatch::Unset && options.limit > 0);
                if exact {
                    return self
                        .list_stored(&cache, filter, "", options.limit, version)
                        .await;
                }
                self.hub
                    .reach(version)
                    .await
                    .map_err(|late| too_large(&late))?;
            }
        }
        Ok(self.list_cached(&cache, filter, "", options.limit))
    }

    fn list_cached(&self, cache: &Cache, filter: &Filter, from: &str, limit: usize) -> ListResult {
        // Read before the list: the list is at least this new.
        let applied = self.hub.applied();
        let (entries, revision, left) = cache.list(filter, from, limit);
        let revision = revision.max(applied);
        let more = limit > 0 && entries.len() == limit && left > 0;
        let token = match entries.last() {
            // Nobody writes as much as 2^63 revisions.
            Some(last) if more => Token::encode(i64::try_from(revision).unwrap_or(-1), &last.key),
            _ => String::new(),
        };
        ListResult {
            remaining: (more && filter.is_unselective() && filter.name.is_empty()).then_some(left),
            entries,
            revision,
            token,
        }
    }

    /// Reads an older revision from the store's history.
    async fn list_stored(
        &self,
        cache: &Cache,
        filter: &Filter,
        from: &str,
        limit: usize,
        revision: u64,
    ) -> Result<ListResult, Status> {
        let scope = match filter.namespace.as_str() {
            "" => cache.prefix().to_owned(),
            namespace => format!("{}{namespace}/", cache.prefix()),
        };
        let mut start = if from.is_empty() {
            scope.clone()
        } else {
            format!("{}{from}", cache.prefix())
        };
        let page = if limit > 0 { limit.max(100) } else { 0 };
        let mut entries = Vec::new();
        loop {
            let range = self
                .hub
                .store()
                .range(RangeRequest {
                    key: start.into(),
                    end: Some(prefix_end(&scope).into()),
                    revision: Some(Revision(revision)),
                    limit: page,
                    ..RangeRequest::default()
                })
                .await
                .map_err(|error| match error {
                    store::Error::Future(latest) => too_large(&crate::cache::TooLarge {
                        wanted: revision,
                        current: latest.0,
                    }),
                    error => store_error(&error),
                })?;
            let total = usize::try_from(range.count).unwrap_or(usize::MAX);
            let mut seen = 0;
            let mut last = None;
            for kv in &range.kvs {
                seen += 1;
                last = Some(kv.key.clone());
                if let Some(entry) = cache.entry(kv)
                    && filter.matches(&entry, &cache.fields)
                {
                    entries.push(Arc::new(entry));
                    if limit > 0 && entries.len() == limit {
                        let left = total.saturating_sub(seen);
                        return Ok(page_result(entries, revision, left, filter));
                    }
                }
            }
            match last {
                Some(last) if range.more => {
                    start = format!("{}\0", String::from_utf8_lossy(&last));
                }
                _ => return Ok(page_result(entries, revision, 0, filter)),
            }
        }
    }
}

fn page_result(
    entries: Vec<Arc<Entry>>,
    revision: u64,
    left: usize,
    filter: &Filter,
) -> ListResult {
    let token = match entries.last() {
        Some(last) if left > 0 => Token::encode(i64::try_from(revision).unwrap_or(-1), &last.key),
        _ => String::new(),
    };
    ListResult {
        remaining: (left > 0 && filter.is_unselective()).then_some(left),
        entries,
        revision,
        token,
    }
}

impl ListResult {
    /// Says that this is the list of an older revision, which it equals.
    fn pin(&mut self, revision: u64) {
        if let Some(last) = self.entries.last()
            && !self.token.is_empty()
        {
            self.token = Token::encode(i64::try_from(revision).unwrap_or(-1), &last.key);
        }
        self.revision = revision;
    }
}

/// 410 of a page carries a token that goes on from the same key, now.
fn expired_page(status: Status, start: &str) -> Status {
    if status.reason != Reason::Expired {
        return status;
    }
    let mut expired = Status::new(Reason::Expired, EXPIRED);
    let token = Token::encode(-1, start.trim_end_matches('\0'));
    expired.metadata.insert("continue".into(), json!(token));
    expired
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn tokens_go_round() {
        let token = Token::decode(&Token::encode(7, "ns/a")).unwrap();
        assert_eq!((token.rv, token.start.as_str()), (7, "ns/a\0"));
        for bad in [
            "?",
            "e30",
            &TOKENS.encode(r#"{"v":"x","rv":1,"start":"a"}"#),
        ] {
            assert_eq!(Token::decode(bad).err().unwrap().code, 400, "{bad}");
        }
    }
}
