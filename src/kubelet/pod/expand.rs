//! `$(VAR)` references in environments, commands and arguments.

/// Replaces `$(NAME)` by what `lookup` knows; an unknown reference stays as it
/// is, and `$$` is a single `$`.
pub(crate) fn expand(input: &str, lookup: impl Fn(&str) -> Option<String>) -> String {
    let mut output = String::with_capacity(input.len());
    let mut rest = input;
    while let Some(at) = rest.find('$') {
        output.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        match rest.as_bytes().first() {
            Some(b'$') => {
                output.push('$');
                rest = &rest[1..];
            }
            Some(b'(') => match rest.find(')') {
                Some(end) => {
                    let name = &rest[1..end];
                    match lookup(name) {
                        Some(value) => output.push_str(&value),
                        None => {
                            output.push('$');
                            output.push_str(&rest[..=end]);
                        }
                    }
                    rest = &rest[end + 1..];
                }
                None => {
                    output.push_str("$(");
                    rest = &rest[1..];
                }
            },
            _ => output.push('$'),
        }
    }
    output.push_str(rest);
    output
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expands() {
        let check = |input: &str, want: &str| {
            let got = expand(input, |name| match name {
                "A" => Some("1".into()),
                "EMPTY" => Some(String::new()),
                _ => None,
            });
            assert_eq!(got, want, "{input}");
        };
        check("$(A)", "1");
        check("x-$(A)-$(A)-y", "x-1-1-y");
        check("$$(A)", "$(A)");
        check("$$$(A)", "$1");
        check("$(B)", "$(B)");
        check("$(EMPTY)|", "|");
        check("$(A", "$(A");
        check("$A $", "$A $");
        check("é$(A)é", "é1é");
        check("$()", "$()");
    }
}
