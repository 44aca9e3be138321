//! Container logs in CRI form: `TIME STREAM TAG TEXT`, the tag `F` for a whole
//! line and `P` for a piece of one.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use jiff::Timestamp;

/// Longest text of one log line.
pub(crate) const MAX_LINE: usize = 16 << 10;

/// Which output a line came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stream {
    Stdout,
    Stderr,
}

impl Stream {
    fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// Cuts one stream into lines.
#[derive(Debug)]
pub(crate) struct Lines {
    stream: Stream,
    unfinished: Vec<u8>,
}

impl Lines {
    pub(crate) fn new(stream: Stream) -> Self {
        Self {
            stream,
            unfinished: Vec::new(),
        }
    }

    /// Appends the log lines of `bytes` to `out`; the rest waits for its end.
    pub(crate) fn cut(&mut self, mut bytes: &[u8], at: Timestamp, out: &mut Vec<u8>) {
        while !bytes.is_empty() {
            let room = MAX_LINE - self.unfinished.len();
            let window = &bytes[..bytes.len().min(room)];
            match window.iter().position(|&b| b == b'\n') {
                Some(end) => {
                    self.line(&bytes[..end], "F", at, out);
                    bytes = &bytes[end + 1..];
                }
                None if bytes.get(room) == Some(&b'\n') => {
                    self.line(&bytes[..room], "F", at, out);
                    bytes = &bytes[room + 1..];
                }
                None if bytes.len() > room => {
                    self.line(&bytes[..room], "P", at, out);
                    bytes = &bytes[room..];
                }
                None => {
                    self.unfinished.extend_from_slice(bytes);
                    return;
                }
            }
        }
    }

    /// The stream is over: what is unfinished is a piece that no line feed
    /// follows, so that readers add none.
    pub(crate) fn end(&mut self, at: Timestamp, out: &mut Vec<u8>) {
        if !self.unfinished.is_empty() {
            self.line(&[], "P", at, out);
        }
    }

    fn line(&mut self, text: &[u8], tag: &str, at: Timestamp, out: &mut Vec<u8>) {
        out.extend_from_slice(base::time::rfc3339_nano(at).as_bytes());
        out.push(b' ');
        out.extend_from_slice(self.stream.name().as_bytes());
        out.push(b' ');
        out.extend_from_slice(tag.as_bytes());
        out.push(b' ');
        out.append(&mut self.unfinished);
        out.extend_from_slice(text);
        out.push(b'\n');
    }
}

/// A log file that is rotated by size.
#[derive(Debug)]
pub(crate) struct Log {
    path: PathBuf,
    file: Option<File>,
    size: u64,
    max_size: u64,
    max_files: u32,
}

impl Log {
    /// Opens the log to append to; its folder is created.
    pub(crate) fn open(path: &Path, max_size: u64, max_files: u32) -> std::io::Result<Self> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let mut log = Self {
            path: path.to_owned(),
            file: None,
            size: 0,
            max_size,
            max_files,
        };
        log.reopen()?;
        Ok(log)
    }

    fn reopen(&mut self) -> std::io::Result<()> {
        use std::os::unix::fs::OpenOptionsExt;
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o640)
            .open(&self.path)?;
        let stat = file.metadata()?;
        self.size = stat.len();
        if !stat.is_file() {
            // `/dev/null` must not be renamed away.
            self.max_size = 0;
        }
        self.file = Some(file);
        Ok(())
    }

    /// Writes whole lines. A disk that is full loses lines, never the container.
    pub(crate) fn write(&mut self, lines: &[u8]) {
        if self.max_size > 0 && self.size > 0 && self.size + lines.len() as u64 > self.max_size {
            self.rotate();
        }
        if let Some(file) = &mut self.file
            && file.write_all(lines).is_ok()
        {
            self.size += lines.len() as u64;
        }
    }

    /// Best effort: where renaming fails the log grows on.
    fn rotate(&mut self) {
        // Fine enough that names sort by age.
        let stamp = Timestamp::now().strftime("%Y%m%d-%H%M%S.%6f").to_string();
        let mut rotated = self.path.clone().into_os_string();
        rotated.push(format!(".{stamp}"));
        if std::fs::rename(&self.path, &rotated).is_ok() && self.reopen().is_ok() {
            self.prune();
        }
    }

    fn prune(&self) {
        let (Some(folder), Some(name)) = (self.path.parent(), self.path.file_name()) else {
            return;
        };
        let mut prefix = name.to_os_string();
        prefix.push(".");
        let Ok(entries) = std::fs::read_dir(folder) else {
            return;
        };
        let mut rotated: Vec<PathBuf> = entries
            .flatten()
            .filter(|e| {
                e.file_name()
                    .as_encoded_bytes()
                    .starts_with(prefix.as_encoded_bytes())
            })
            .map(|e| e.path())
            .collect();
        rotated.sort();
        let keep = (self.max_files.max(2) - 1) as usize;
        for old in rotated.iter().rev().skip(keep) {
            // The next rotation tries again.
            let _ = std::fs::remove_file(old);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use proptest::prelude::*;

    use super::*;

    fn cut(pieces: &[&[u8]]) -> String {
        let (mut lines, mut out) = (Lines::new(Stream::Stdout), Vec::new());
        for piece in pieces {
            lines.cut(piece, Timestamp::UNIX_EPOCH, &mut out);
        }
        lines.end(Timestamp::UNIX_EPOCH, &mut out);
        String::from_utf8(out)
            .unwrap()
            .replace("1970-01-01T00:00:00.000000000Z stdout ", "")
    }

    #[test]
    fn lines_and_pieces() {
        assert_eq!(cut(&[b"a\nb", b"c\n\n"]), "F a\nF bc\nF \n");
        assert_eq!(cut(&[b"no end"]), "P no end\n");
        let long = vec![b'x'; MAX_LINE];
        assert_eq!(
            cut(&[&long, b"\n"]),
            format!("F {}\n", "x".repeat(MAX_LINE))
        );
        assert_eq!(
            cut(&[&long, b"y\n"]),
            format!("P {}\nF y\n", "x".repeat(MAX_LINE))
        );
    }

    proptest! {
        #[test]
        fn nothing_is_lost(pieces in proptest::collection::vec("[ab\n]{0,20000}", 0..4)) {
            let bytes: Vec<&[u8]> = pieces.iter().map(|p| p.as_bytes()).collect();
            let mut text = String::new();
            for line in cut(&bytes).lines() {
                text.push_str(&line[2..]);
                if line.starts_with('F') {
                    text.push('\n');
                }
            }
            prop_assert_eq!(text, pieces.concat());
        }
    }

    #[test]
    fn devices_are_not_rotated() {
        let mut log = Log::open(Path::new("/dev/null"), 10, 3).unwrap();
        log.write(&[b'x'; 100]);
        log.write(&[b'x'; 100]);
        assert_eq!(log.max_size, 0);
    }

    #[test]
    fn rotation_keeps_the_newest() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = Log::open(&folder.path().join("0.log"), 10, 3).unwrap();
        for number in 0..6 {
            log.write(format!("line {number}\n").as_bytes());
        }
        let mut names: Vec<String> = std::fs::read_dir(folder.path())
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names.len(), 3, "{names:?}");
        assert_eq!(
            std::fs::read_to_string(folder.path().join("0.log")).unwrap(),
            "line 5\n"
        );
        assert_eq!(
            std::fs::read_to_string(folder.path().join(&names[2])).unwrap(),
            "line 4\n"
        );
    }
}
