//! What a URL asks for: `request.RequestInfo`.

use std::borrow::Cow;

use http::Method;

use crate::access::Attributes;

/// A parsed request line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RequestInfo {
    /// Whether the path is below `/api/VERSION/` or `/apis/GROUP/VERSION/`
    /// and names a resource.
    pub is_resource: bool,
    /// Verb for authorisation.
    pub verb: &'static str,
    /// Decoded path.
    pub path: String,
    /// API group; empty for core.
    pub group: String,
    /// API version.
    pub version: String,
    /// Namespace; empty if none.
    pub namespace: String,
    /// Resource.
    pub resource: String,
    /// Subresource.
    pub subresource: String,
    /// Object name.
    pub name: String,
    /// Path below the subresource, as it came, with its leading slash.
    pub tail: String,
    /// Field selector of a list, watch or deletion of many; empty if none.
    pub field_selector: String,
}

impl RequestInfo {
    /// Parses a method, path and query.
    pub(crate) fn parse(method: &Method, raw_path: &str, query: &Query<'_>) -> Self {
        let path = decode(raw_path);
        let mut info = Self {
            verb: method_verb(method),
            path: path.clone().into_owned(),
            ..Self::default()
        };
        let mut parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
        match parts.first() {
            Some(&"api") if parts.len() >= 3 => {
                info.version = parts[1].to_owned();
                parts.drain(..2);
            }
            Some(&"apis") if parts.len() >= 4 => {
                info.group = parts[1].to_owned();
                info.version = parts[2].to_owned();
                parts.drain(..3);
            }
            _ => return info,
        }
        info.is_resource = true;
        info.verb = match *method {
            Method::POST => "create",
            Method::GET | Method::HEAD => "get",
            Method::PUT => "update",
            Method::PATCH => "patch",
            Method::DELETE => "delete",
            _ => "",
        };
        let mut watch_prefix = false;
        if parts[0] == "watch" && parts.len() > 1 {
            watch_prefix = true;
            info.verb = "watch";
            parts.remove(0);
        }
        if parts[0] == "namespaces" && parts.len() > 1 {
            info.namespace = parts[1].to_owned();
            if parts.len() > 2 && !matches!(parts[2], "status" | "finalize") {
                parts.drain(..2);
            }
        }
        info.resource = parts[0].to_owned();
        if let Some(name) = parts.get(1) {
            info.name = (*name).to_owned();
        }
        if let Some(subresource) = parts.get(2)
            && !watch_prefix
        {
            info.subresource = (*subresource).to_owned();
            info.tail = raw_tail(raw_path, &info);
        }
        if info.name.is_empty() && info.verb == "get" {
            let watch = query.flag("watch");
            info.verb = if watch { "watch" } else { "list" };
        }
        if info.name.is_empty() && info.verb == "delete" {
            info.verb = "deletecollection";
        }
        if matches!(info.verb, "list" | "watch" | "deletecollection")
            && let Some(selector) = query.get("fieldSelector")
        {
            info.field_selector = selector.into_owned();
        }
        if info.name.is_empty()
            && let Some(name) = info.field_selector.split(',').find_map(|term| {
                let name = term.strip_prefix("metadata.name=")?;
                Some(name.strip_prefix('=').unwrap_or(name).to_owned())
            })
            && !name.is_empty()
            && !name.contains('/')
        {
            info.name = name;
        }
        info
    }

    /// What authorizers look at.
    pub(crate) fn attributes(&self) -> Attributes<'_> {
        Attributes {
            verb: self.verb,
            namespace: &self.namespace,
            group: &self.group,
            version: &self.version,
            resource: &self.resource,
            subresource: &self.subresource,
            name: &self.name,
            path: &self.path,
            is_resource: self.is_resource,
            field_selector: (&*self.field_selector).into(),
        }
    }

    /// Whether the request may last: watches and streams.
    pub(crate) fn is_long_running(&self, query: &Query<'_>) -> bool {
        self.verb == "watch"
            || matches!(
                self.subresource.as_str(),
                "exec" | "attach" | "portforward" | "proxy"
            )
            || (self.subresource == "log" && query.flag("follow"))
    }
}

fn method_verb(method: &Method) -> &'static str {
    match *method {
        Method::GET => "get",
        Method::HEAD => "head",
        Method::POST => "post",
        Method::PUT => "put",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        Method::OPTIONS => "options",
        _ => "unknown",
    }
}

/// What follows `…/NAME/SUBRESOURCE` in the raw path.
fn raw_tail(raw: &str, info: &RequestInfo) -> String {
    let mut segments = if info.group.is_empty() { 2 } else { 3 };
    if info.resource != "namespaces" && !info.namespace.is_empty() {
        segments += 2;
    }
    segments += 3;
    let mut rest = raw;
    for _ in 0..segments {
        rest = rest.trim_start_matches('/');
        match rest.find('/') {
            Some(end) => rest = &rest[end..],
            None => return String::new(),
        }
    }
    rest.to_owned()
}

/// Decodes percent escapes; a path that is not UTF-8 afterwards stays as it is.
pub(crate) fn decode(text: &str) -> Cow<'_, str> {
    decode_with(text, false)
}

fn decode_with(text: &str, plus: bool) -> Cow<'_, str> {
    if !(text.contains('%') || plus && text.contains('+')) {
        return Cow::Borrowed(text);
    }
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let escaped = (bytes[at] == b'%')
            .then(|| bytes.get(at + 1..at + 3))
            .flatten()
            .and_then(|hex| std::str::from_utf8(hex).ok())
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match escaped {
            Some(byte) => {
                out.push(byte);
                at += 3;
            }
            None => {
                out.push(if plus && bytes[at] == b'+' {
                    b' '
                } else {
                    bytes[at]
                });
                at += 1;
            }
        }
    }
    String::from_utf8(out).map_or(Cow::Borrowed(text), Cow::Owned)
}

/// A query string, looked up without being copied.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Query<'a>(pub &'a str);

impl<'a> Query<'a> {
    /// Every parameter in order.
    pub(crate) fn pairs(self) -> impl Iterator<Item = (Cow<'a, str>, Cow<'a, str>)> {
        self.0
            .split('&')
            .filter(|pair| !pair.is_empty())
            .map(|pair| {
                let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
                (decode_with(key, true), decode_with(value, true))
            })
    }

    /// The first value of a parameter; `None` if it is absent.
    pub(crate) fn get(self, name: &str) -> Option<Cow<'a, str>> {
        self.pairs()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value)
    }

    /// The first value of a parameter that is not empty.
    pub(crate) fn non_empty(self, name: &str) -> Option<Cow<'a, str>> {
        self.get(name).filter(|value| !value.is_empty())
    }

    /// Every value of a parameter.
    pub(crate) fn all(self, name: &str) -> Vec<String> {
        self.pairs()
            .filter(|(key, _)| key == name)
            .map(|(_, value)| value.into_owned())
            .collect()
    }

    /// Whether a boolean parameter is set, as upstream converts strings to
    /// bool: anything but empty, `false` and `0` counts.
    pub(crate) fn flag(self, name: &str) -> bool {
        self.get(name)
            .is_some_and(|value| !(value == "0" || value.eq_ignore_ascii_case("false")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(method: Method, url: &str) -> RequestInfo {
        let (path, query) = url.split_once('?').unwrap_or((url, ""));
        RequestInfo::parse(&method, path, &Query(query))
    }

    #[test]
    fn verbs_and_names() {
        for (method, url, verb, group, namespace, resource, name, subresource) in [
            (Method::GET, "/api/v1/pods", "list", "", "", "pods", "", ""),
            (
                Method::GET,
                "/api/v1/namespaces/a/pods?watch=1",
                "watch",
                "",
                "a",
                "pods",
                "",
                "",
            ),
            (
                Method::GET,
                "/api/v1/namespaces/a/pods/x/log",
                "get",
                "",
                "a",
                "pods",
                "x",
                "log",
            ),
            (
                Method::GET,
                "/api/v1/namespaces/a",
                "get",
                "",
                "a",
                "namespaces",
                "a",
                "",
            ),
            (
                Method::PUT,
                "/api/v1/namespaces/a/finalize",
                "update",
                "",
                "a",
                "namespaces",
                "a",
                "finalize",
            ),
            (
                Method::DELETE,
                "/apis/apps/v1/namespaces/a/deployments",
                "deletecollection",
                "apps",
                "a",
                "deployments",
                "",
                "",
            ),
            (
                Method::POST,
                "/apis/apps/v1/namespaces/a/deployments",
                "create",
                "apps",
                "a",
                "deployments",
                "",
                "",
            ),
            (
                Method::GET,
                "/api/v1/watch/namespaces/a/pods/x",
                "watch",
                "",
                "a",
                "pods",
                "x",
                "",
            ),
            (
                Method::GET,
                "/api/v1/nodes?fieldSelector=metadata.name%3Dn1",
                "list",
                "",
                "",
                "nodes",
                "n1",
                "",
            ),
        ] {
            let info = parse(method, url);
            assert_eq!(
                (
                    info.verb,
                    &*info.group,
                    &*info.namespace,
                    &*info.resource,
                    &*info.name,
                    &*info.subresource
                ),
                (verb, group, namespace, resource, name, subresource),
                "{url}"
            );
        }
    }

    #[test]
    fn other_paths() {
        let info = parse(Method::GET, "/apis/apps/v1");
        assert!(!info.is_resource);
        assert_eq!(info.verb, "get");
        assert!(!parse(Method::GET, "/api/v1").is_resource);
    }

    #[test]
    fn tails_stay_raw() {
        let info = parse(
            Method::GET,
            "/api/v1/namespaces/a/services/http:x:80/proxy/some%20path/",
        );
        assert_eq!(info.name, "http:x:80");
        assert_eq!(info.tail, "/some%20path/");
        assert_eq!(parse(Method::GET, "/api/v1/nodes/n/proxy").tail, "");
        assert_eq!(
            parse(Method::GET, "/api/v1/nodes/n/proxy/logs/").tail,
            "/logs/"
        );
    }
}
