//! Links of proxied pages, so that they work below the proxy's path.

use std::io::{Read, Write};

use flate2::Compression;
use flate2::read::{DeflateDecoder, GzDecoder};
use flate2::write::{DeflateEncoder, GzEncoder};

/// Which attributes of which elements are links.
const LINKS: [(&str, &[&str]); 25] = [
    ("a", &["href"]),
    ("applet", &["codebase"]),
    ("area", &["href"]),
    ("audio", &["src"]),
    ("base", &["href"]),
    ("blockquote", &["cite"]),
    ("body", &["background"]),
    ("button", &["formaction"]),
    ("command", &["icon"]),
    ("del", &["cite"]),
    ("embed", &["src"]),
    ("form", &["action"]),
    ("frame", &["longdesc", "src"]),
    ("head", &["profile"]),
    ("html", &["manifest"]),
    ("iframe", &["longdesc", "src"]),
    ("img", &["longdesc", "src", "usemap"]),
    ("input", &["src", "usemap", "formaction"]),
    ("ins", &["cite"]),
    ("link", &["href"]),
    ("object", &["classid", "codebase", "data", "usemap"]),
    ("q", &["cite"]),
    ("script", &["src"]),
    ("source", &["src"]),
    ("video", &["poster", "src"]),
];
/// Elements whose content is text, whatever it looks like.
const RAW: [&str; 5] = ["script", "style", "textarea", "title", "xmp"];

/// How links are changed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Links<'a> {
    /// Path of the proxy, without a slash at its end.
    pub(super) prefix: &'a str,
    /// `HOST:PORT` of what is proxied to.
    pub(super) backend: &'a str,
    /// The host the client asked.
    pub(super) host: &'a str,
}

impl Links<'_> {
    /// A link as it is below the proxy; `None` if it stays as it is.
    pub(super) fn rewrite(&self, link: &str) -> Option<String> {
        let (scheme, rest) = match link.split_once("//") {
            Some((scheme, rest)) if scheme.is_empty() || scheme.ends_with(':') => {
                (Some(scheme), rest)
            }
            _ => (None, link),
        };
        let (authority, path) = match scheme {
            None => ("", rest),
            Some(_) => rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len())),
        };
        if !authority.is_empty() && authority != self.backend && authority != self.host {
            return None;
        }
        let absolute = path.starts_with('/') || (!authority.is_empty() && path.is_empty());
        if !absolute || (scheme.is_some() && authority.is_empty()) {
            return None;
        }
        let start = match scheme {
            Some(scheme) if authority == self.host && authority != self.backend => {
                format!("{scheme}//{authority}")
            }
            _ => String::new(),
        };
        let prefix = if path.starts_with(self.prefix) {
            ""
        } else {
            self.prefix
        };
        let changed = format!("{start}{prefix}{path}");
        (changed != link).then_some(changed)
    }

    /// A page with its links rewritten, in the encoding it came in. `None` if
    /// the encoding is unknown or broken.
    pub(super) fn rewrite_body(&self, body: &[u8], encoding: &str) -> Option<Vec<u8>> {
        let page = |mut reader: Box<dyn Read + '_>| {
            let mut page = Vec::new();
            reader.read_to_end(&mut page).ok()?;
            Some(self.rewrite_page(&String::from_utf8_lossy(&page)))
        };
        match encoding {
            "" | "identity" => Some(page(Box::new(body))?.into_bytes()),
            "gzip" => {
                let page = page(Box::new(GzDecoder::new(body)))?;
                let mut out = GzEncoder::new(Vec::new(), Compression::default());
                out.write_all(page.as_bytes()).ok()?;
                out.finish().ok()
            }
            "deflate" => {
                let page = page(Box::new(DeflateDecoder::new(body)))?;
                let mut out = DeflateEncoder::new(Vec::new(), Compression::best());
                out.write_all(page.as_bytes()).ok()?;
                out.finish().ok()
            }
            _ => None,
        }
    }

    /// Rewrites the links of a page; everything else stays as it is.
    fn rewrite_page(&self, page: &str) -> String {
        let mut out = String::with_capacity(page.len() + 64);
        let mut rest = page;
        while let Some(at) = rest.find('<') {
            out.push_str(&rest[..at]);
            rest = &rest[at..];
            let end = if rest.starts_with("<!--") {
                rest.find("-->").map(|end| end + 3)
            } else {
                tag_end(rest)
            };
            let Some(end) = end else { break };
            let (tag, after) = rest.split_at(end);
            rest = after;
            let name = tag[1..]
                .split(|c: char| c.is_whitespace() || matches!(c, '/' | '>'))
                .next()
                .unwrap_or("")
                .to_ascii_lowercase();
            match LINKS.iter().find(|(known, _)| *known == name) {
                Some((_, attributes)) => self.rewrite_tag(tag, attributes, &mut out),
                None => out.push_str(tag),
            }
            if RAW.contains(&name.as_str()) && !tag.ends_with("/>") {
                let close = format!("</{name}");
                let end = rest.to_ascii_lowercase().find(&close).unwrap_or(rest.len());
                out.push_str(&rest[..end]);
                rest = &rest[end..];
            }
        }
        out.push_str(rest);
        out
    }

    fn rewrite_tag(&self, tag: &str, links: &[&str], out: &mut String) {
        let mut rest = tag;
        while let Some(at) = rest.find('=') {
            let name = rest[..at]
                .trim_end()
                .rsplit(|c: char| c.is_whitespace() || matches!(c, '<' | '"' | '\'' | '/'))
                .next()
                .unwrap_or("")
                .to_ascii_lowercase();
            let start = at + 1 + rest[at + 1..].len() - rest[at + 1..].trim_start().len();
            let quote = rest[start..]
                .chars()
                .next()
                .filter(|c| matches!(c, '"' | '\''));
            let from = start + usize::from(quote.is_some());
            let to = match quote {
                Some(quote) => rest[from..].find(quote),
                None => rest[from..].find(|c: char| c.is_whitespace() || c == '>'),
            };
            let Some(to) = to.map(|to| from + to) else {
                break;
            };
            out.push_str(&rest[..from]);
            let value = &rest[from..to];
            let link = links
                .contains(&name.as_str())
                .then(|| self.rewrite(value))
                .flatten();
            out.push_str(link.as_deref().unwrap_or(value));
            // The quote goes out here, so that it is not taken for a name's part.
            let past = to + usize::from(quote.is_some());
            out.push_str(&rest[to..past]);
            rest = &rest[past..];
        }
        out.push_str(rest);
    }
}

/// Where a tag ends, quoted `>` aside.
fn tag_end(text: &str) -> Option<usize> {
    let mut quote = None;
    for (at, c) in text.char_indices() {
        match (quote, c) {
            (None, '>') => return Some(at + 1),
            (None, '"' | '\'') if at > 0 => quote = Some(c),
            (Some(open), c) if c == open => quote = None,
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LINKS: Links<'_> = Links {
        prefix: "/p/proxy",
        backend: "10.0.0.1:80",
        host: "api:6443",
    };

    #[test]
    fn links() {
        for (link, expected) in [
            ("/x", Some("/p/proxy/x")),
            ("/p/proxy/x", None),
            ("rel", None),
            ("?q", None),
            ("http://10.0.0.1:80/x", Some("/p/proxy/x")),
            ("//10.0.0.1:80/x", Some("/p/proxy/x")),
            ("http://api:6443/x", Some("http://api:6443/p/proxy/x")),
            ("http://else/x", None),
            ("mailto:a@b", None),
        ] {
            assert_eq!(LINKS.rewrite(link).as_deref(), expected, "{link}");
        }
    }

    #[test]
    fn pages() {
        for (page, expected) in [
            (
                r#"<a href="/x">a</a><img src='http://10.0.0.1:80/i.png'><a href="rel">"#,
                r#"<a href="/p/proxy/x">a</a><img src='/p/proxy/i.png'><a href="rel">"#,
            ),
            (
                r#"<p title="a > b" href="/x"><A HREF=/y>"#,
                r#"<p title="a > b" href="/x"><A HREF=/p/proxy/y>"#,
            ),
            (
                r#"<script>x = '<a href="/x">'</script>"#,
                r#"<script>x = '<a href="/x">'</script>"#,
            ),
            (
                r#"<!-- <a href="/x"> --><a href = "/y">"#,
                r#"<!-- <a href="/x"> --><a href = "/p/proxy/y">"#,
            ),
            ("1 < 2", "1 < 2"),
        ] {
            assert_eq!(LINKS.rewrite_page(page), expected);
        }
        let mut packed = GzEncoder::new(Vec::new(), Compression::default());
        packed
            .write_all(b"<a href='/x'>")
            .expect("a vector takes it");
        let packed = packed.finish().expect("a vector takes it");
        let body = LINKS.rewrite_body(&packed, "gzip").expect("gzip");
        let mut page = String::new();
        GzDecoder::new(&*body)
            .read_to_string(&mut page)
            .expect("gzip");
        assert_eq!(page, "<a href='/p/proxy/x'>");
        assert_eq!(LINKS.rewrite_body(b"x", "br"), None);
    }

    proptest! {
        #[test]
        fn never_panics_and_keeps_plain_text(page in "[<>a-z=\"'/! -]{0,80}") {
            let _ = LINKS.rewrite_page(&page);
            let plain = page.replace('<', "");
            prop_assert_eq!(LINKS.rewrite_page(&plain), plain);
        }
    }
}
