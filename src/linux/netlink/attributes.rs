//! Netlink attributes: type-length-value, aligned to four bytes, nested.

const HEADER: usize = 4;
const NESTED: u16 = 0x8000;
const KIND_MASK: u16 = 0x3fff;

/// Writes attributes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attributes(Vec<u8>);

impl Attributes {
    /// No attributes yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// What was written so far.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// An attribute with this value.
    pub fn bytes(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        let length = u16::try_from(HEADER + value.len())
            .expect("a single attribute is far below 64 KiB by construction");
        self.0.extend_from_slice(&length.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        self.align();
        self
    }

    /// A byte.
    pub fn u8(&mut self, kind: u16, value: u8) -> &mut Self {
        self.bytes(kind, &[value])
    }

    /// A number in host byte order, as rtnetlink wants it.
    pub fn u32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.bytes(kind, &value.to_ne_bytes())
    }

    /// A number in network byte order, as netfilter wants it.
    pub fn be16(&mut self, kind: u16, value: u16) -> &mut Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    /// A number in network byte order, as netfilter wants it.
    pub fn be32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    /// A number in network byte order, as netfilter wants it.
    pub fn be64(&mut self, kind: u16, value: u64) -> &mut Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    /// A string, with the terminating NUL the kernel expects.
    pub fn string(&mut self, kind: u16, value: &str) -> &mut Self {
        let mut bytes = Vec::with_capacity(value.len() + 1);
        bytes.extend_from_slice(value.as_bytes());
        bytes.push(0);
        self.bytes(kind, &bytes)
    }

    /// An attribute that holds attributes.
    pub fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) -> &mut Self {
        self.nest_after(kind, &[], fill)
    }

    /// An attribute that holds a fixed header and then attributes.
    pub fn nest_after(
        &mut self,
        kind: u16,
        header: &[u8],
        fill: impl FnOnce(&mut Self),
    ) -> &mut Self {
        let start = self.0.len();
        self.0.extend_from_slice(&[0; HEADER]);
        self.0.extend_from_slice(header);
        self.align();
        fill(self);
        let length = u16::try_from(self.0.len() - start)
            .expect("nested attributes are split below 64 KiB by whoever fills them");
        self.0[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self.0[start + 2..start + 4].copy_from_slice(&(kind | NESTED).to_ne_bytes());
        self
    }

    fn align(&mut self) {
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }
}

/// Reads attributes as `(kind, value)`; ends at the first malformed one.
#[derive(Clone, Debug)]
pub struct Parse<'a>(pub &'a [u8]);

impl<'a> Iterator for Parse<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let header = self.0.get(..HEADER)?;
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let kind = u16::from_ne_bytes([header[2], header[3]]) & KIND_MASK;
        let value = self.0.get(HEADER..length)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    }
}

impl<'a> Parse<'a> {
    /// The value of the first attribute of this kind.
    pub fn find(self, wanted: u16) -> Option<&'a [u8]> {
        self.into_iter()
            .find_map(|(kind, value)| (kind == wanted).then_some(value))
    }
}

/// A string attribute without its NUL.
pub(crate) fn text(value: &[u8]) -> String {
    let end = value
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(value.len());
    String::from_utf8_lossy(&value[..end]).into_owned()
}

/// A number in host byte order.
pub(crate) fn ne32(value: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(value.get(..4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn reads_back_what_it_wrote(
            attributes in prop::collection::vec(
                (0u16..KIND_MASK, prop::collection::vec(any::<u8>(), 0..40)), 0..20),
        ) {
            let mut written = Attributes::new();
            for (kind, value) in &attributes {
                written.bytes(*kind, value);
            }
            let mut outer = Attributes::new();
            outer.nest(7, |inner| {
                for (kind, value) in &attributes {
                    inner.bytes(*kind, value);
                }
            });
            let read: Vec<_> =
                Parse(written.as_bytes()).map(|(kind, value)| (kind, value.to_vec())).collect();
            prop_assert_eq!(&read, &attributes);
            prop_assert_eq!(Parse(outer.as_bytes()).find(7), Some(written.as_bytes()));
        }

        #[test]
        fn never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            for (_, value) in Parse(&bytes) {
                let _ = text(value);
                Parse(value).for_each(drop);
            }
        }
    }
}
