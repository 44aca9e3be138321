//! Header blocks: name and value pairs, compressed with one zlib context for
//! each direction of a connection and SPDY's dictionary.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use super::Error;

/// The dictionary of SPDY/3, from its specification.
static DICTIONARY: &[u8] = include_bytes!("dictionary.bin");

/// Largest block taken, decompressed.
const MAX_BLOCK: usize = 64 << 10;
const CHUNK: usize = 4 << 10;

/// Headers of a stream; names are lower case.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Headers(pub(crate) Vec<(String, String)>);

impl Headers {
    /// The value of a header.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        let found = self
            .0
            .iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    fn encode(&self) -> Bytes {
        let mut block = BytesMut::new();
        let length = |length: usize| u32::try_from(length).unwrap_or(u32::MAX);
        block.put_u32(length(self.0.len()));
        for (name, value) in &self.0 {
            block.put_u32(length(name.len()));
            block.put_slice(name.as_bytes());
            block.put_u32(length(value.len()));
            block.put_slice(value.as_bytes());
        }
        block.freeze()
    }

    fn decode(mut block: &[u8]) -> Result<Self, Error> {
        let malformed = Error::Protocol("malformed header block");
        let text = |block: &mut &[u8]| {
            let length = block.try_get_u32().ok()? as usize;
            let bytes = block.get(..length)?;
            let text = String::from_utf8(bytes.to_vec()).ok()?;
            block.advance(length);
            Some(text)
        };
        let Ok(count) = block.try_get_u32() else {
            return Err(malformed);
        };
        let mut headers = Vec::new();
        for _ in 0..count {
            let (Some(name), Some(value)) = (text(&mut block), text(&mut block)) else {
                return Err(malformed);
            };
            headers.push((name, value));
        }
        Ok(Self(headers))
    }
}

/// Compresses the blocks of one direction.
pub(super) struct Encoder(Compress);

impl Encoder {
    pub(super) fn new() -> Self {
        let mut zlib = Compress::new(Compression::default(), true);
        zlib.set_dictionary(DICTIONARY)
            .expect("nothing was compressed before");
        Self(zlib)
    }

    /// A compressed block.
    pub(super) fn encode(&mut self, headers: &Headers) -> Result<Bytes, Error> {
        let block = headers.encode();
        let mut input = &block[..];
        let mut output = Vec::with_capacity(CHUNK);
        loop {
            output.reserve(CHUNK);
            let before = self.0.total_in();
            self.0
                .compress_vec(input, &mut output, FlushCompress::Sync)
                .map_err(|_| Error::Protocol("compressing a header block"))?;
            input = &input[(self.0.total_in() - before) as usize..];
            if input.is_empty() && output.len() < output.capacity() {
                return Ok(output.into());
            }
        }
    }
}

/// Decompresses the blocks of one direction.
pub(super) struct Decoder(Decompress);

impl Decoder {
    pub(super) fn new() -> Self {
        Self(Decompress::new(true))
    }

    /// Headers out of a compressed block.
    pub(super) fn decode(&mut self, block: &[u8]) -> Result<Headers, Error> {
        let malformed = || Error::Protocol("a header block that cannot be decompressed");
        let mut input = block;
        let mut output = Vec::with_capacity(CHUNK);
        loop {
            if output.len() >= MAX_BLOCK {
                return Err(Error::Protocol("a header block that is too large"));
            }
            output.reserve(CHUNK);
            let (before, length) = (self.0.total_in(), output.len());
            let result = self
                .0
                .decompress_vec(input, &mut output, FlushDecompress::Sync);
            input = &input[(self.0.total_in() - before) as usize..];
            match result {
                Ok(Status::StreamEnd) => return Err(malformed()),
                Ok(Status::Ok | Status::BufError) => {
                    let stuck = self.0.total_in() == before && output.len() == length;
                    if input.is_empty() && output.len() < output.capacity() {
                        return Headers::decode(&output);
                    }
                    if stuck {
                        return Err(malformed());
                    }
                }
                Err(error) if error.needs_dictionary().is_some() => {
                    self.0.set_dictionary(DICTIONARY).map_err(|_| malformed())?;
                }
                Err(_) => return Err(malformed()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn decodes_what_it_encodes(
            blocks in prop::collection::vec(
                prop::collection::vec(("[a-z]{1,12}", ".{0,200}"), 0..20), 1..5)
        ) {
            // The contexts live on from block to block.
            let (mut encoder, mut decoder) = (Encoder::new(), Decoder::new());
            for block in blocks {
                let headers = Headers(block);
                let encoded = encoder.encode(&headers).unwrap();
                prop_assert_eq!(decoder.decode(&encoded).unwrap(), headers);
            }
        }

        #[test]
        fn survives_any_block(block in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = Decoder::new().decode(&block);
            let _ = Headers::decode(&block);
        }
    }

    #[test]
    fn refuses_bombs() {
        let headers = Headers(vec![("a".into(), "x".repeat(MAX_BLOCK * 4))]);
        let bomb = Encoder::new().encode(&headers).unwrap();
        assert!(bomb.len() < 4096);
        assert!(Decoder::new().decode(&bomb).is_err());
    }
}
