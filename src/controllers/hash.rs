//! Short hashes for names and labels.

/// 32-bit FNV-1a.
pub(crate) fn fnv32a(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, byte| {
        (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193)
    })
}

/// The letters Kubernetes draws random names from: no vowels and no digits
/// that look like them, so that no word comes about.
const SAFE: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";

/// The decimal form of a number, each digit replaced as upstream's
/// `SafeEncodeString` replaces it.
pub(crate) fn safe_encode(number: u32) -> String {
    number
        .to_string()
        .bytes()
        .map(|digit| char::from(SAFE[usize::from(digit) % SAFE.len()]))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_and_encodes() {
        assert_eq!(fnv32a(b""), 0x811c_9dc5);
        assert_eq!(fnv32a(b"a"), 0xe40c_292c);
        assert_eq!(safe_encode(0), "4");
        assert_eq!(safe_encode(1_234_567_890).len(), 10);
    }
}
