//! Container logs: reading CRI log files, and following them as they grow.

use std::convert::Infallible;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use cri::{ContainerEvent, ContainerId, ContainerRuntime, ContainerState, ContainerStatus};
use futures::stream;
use http::{Request, Response, StatusCode, header};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Incoming;
use jiff::Timestamp;
use rustix::fs::inotify;
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio::net::unix::pipe::Receiver;
use tokio::sync::broadcast;

use super::Server;
use super::query::Query;
use super::reply::{Reply, error};
use crate::pod::{PodView, name};

const CHUNK: usize = 64 << 10;
/// Blocks read backwards when looking for the last lines.
const TAIL_BLOCK: u64 = 16 << 10;

/// Which lines are wanted, and how.
#[derive(Clone, Debug, Default, PartialEq)]
struct Options {
    follow: bool,
    timestamps: bool,
    tail: Option<u64>,
    since: Option<Timestamp>,
    limit: Option<u64>,
    /// Only `stdout` or `stderr` lines.
    stream: Option<&'static str>,
}

impl Options {
    fn parse(query: &Query, now: Timestamp) -> Result<Self, String> {
        let number = |key: &str| match query.get(key).filter(|text| !text.is_empty()) {
            None => Ok(None),
            Some(text) => text.parse::<u64>().map(Some).map_err(|_| {
                format!("invalid {key} {text:?}: must be a number that is not negative")
            }),
        };
        let since = match query.get("sinceTime").filter(|text| !text.is_empty()) {
            Some(text) => Some(
                text.parse::<Timestamp>()
                    .map_err(|error| format!("invalid sinceTime {text:?}: {error}"))?,
            ),
            None => number("sinceSeconds")?.and_then(|seconds| {
                let seconds = i64::try_from(seconds).ok()?;
                now.checked_sub(jiff::SignedDuration::from_secs(seconds))
                    .ok()
            }),
        };
        Ok(Self {
            follow: query.flag(&["follow"]),
            timestamps: query.flag(&["timestamps"]),
            tail: number("tailLines")?,
            since,
            limit: number("limitBytes")?,
            stream: match query.get("stream") {
                None | Some("" | "All") => None,
                Some("Stdout") => Some("stdout"),
                Some("Stderr") => Some("stderr"),
                Some(other) => {
                    return Err(format!(
                        "invalid stream {other:?}: must be \"All\", \"Stdout\" or \"Stderr\""
                    ));
                }
            },
        })
    }
}

/// Answers `GET /containerLogs/NAMESPACE/POD/CONTAINER`.
pub(super) async fn serve(
    server: &Arc<Server>,
    request: &Request<Incoming>,
    view: &PodView,
    container: &str,
) -> Reply {
    let query = Query::of(request.uri());
    let options = match Options::parse(&query, Timestamp::now()) {
        Ok(options) => options,
        Err(message) => return error(StatusCode::BAD_REQUEST, &message),
    };
    let run = match find_run(view, container, query.flag(&["previous"])) {
        Ok(run) => run,
        Err(message) => return error(StatusCode::BAD_REQUEST, &message),
    };
    let runtime = server.shared.runtime.clone();
    let follower = match Follower::open(&run, options, runtime).await {
        Ok(follower) => follower,
        Err(reason) => {
            let message = format!("failed to open log file {:?}: {reason}", run.log_path);
            return error(StatusCode::INTERNAL_SERVER_ERROR, &message);
        }
    };
    let chunks = stream::unfold(follower, |mut follower| async move {
        let chunk = follower.next().await?;
        Some((Ok::<_, Infallible>(Frame::data(chunk)), follower))
    });
    let mut response = Response::new(StreamBody::new(chunks).boxed_unsync());
    let plain = header::HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, plain);
    response.into()
}

/// The run of a container whose log is wanted.
fn find_run(view: &PodView, container: &str, previous: bool) -> Result<ContainerStatus, String> {
    let pod = name(&view.pod);
    let ended_or_running = |run: &&ContainerStatus| {
        !matches!(run.state, ContainerState::Created | ContainerState::Unknown)
    };
    let runs = view
        .observed
        .containers
        .iter()
        .filter(|run| run.config.name == container);
    let mut runs = runs.filter(ended_or_running);
    let statuses = view.status.container_statuses.iter().flatten();
    let status = statuses
        .chain(view.status.init_container_statuses.iter().flatten())
        .chain(view.status.ephemeral_container_statuses.iter().flatten())
        .find(|status| status.name == container);
    let waiting = status.and_then(|status| status.state.as_ref()?.waiting.as_ref());
    let found = match previous {
        // A container that waits to be restarted has ended last as its newest run.
        true if waiting.is_some() => runs.next(),
        true => runs.nth(1),
        false => runs.next(),
    };
    if let Some(run) = found {
        return Ok(run.clone());
    }
    if previous {
        return Err(format!(
            "previous terminated container {container:?} in pod {pod:?} not found"
        ));
    }
    match status {
        None => Err(format!(
            "container {container:?} in pod {pod:?} is not available"
        )),
        Some(_) => {
            let reason = waiting.and_then(|waiting| waiting.reason.as_deref());
            let message = waiting.and_then(|waiting| waiting.message.as_deref());
            let start = format!("container {container:?} in pod {pod:?} is waiting to start");
            Err(match (reason, message) {
                (Some("ErrImagePull" | "ImagePullBackOff"), _) => {
                    format!("{start}: trying and failing to pull image")
                }
                (Some(reason), _) => format!("{start}: {reason}"),
                (None, Some(message)) => format!("{start}: {message}"),
                (None, None) => start,
            })
        }
    }
}

/// A line of a CRI log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Line<'a> {
    time: &'a str,
    stream: &'a str,
    /// The rest of the line follows.
    partial: bool,
    content: &'a [u8],
}

/// Parses `TIME STREAM TAGS CONTENT`, without its line feed.
fn parse_line(line: &[u8]) -> Option<Line<'_>> {
    let mut parts = line.splitn(4, |byte| *byte == b' ');
    let time = std::str::from_utf8(parts.next()?).ok()?;
    let stream = std::str::from_utf8(parts.next()?).ok()?;
    let tags = parts.next()?;
    let content = parts.next().unwrap_or_default();
    let partial = tags.split(|byte| *byte == b':').next() == Some(b"P");
    matches!(stream, "stdout" | "stderr").then_some(Line {
        time,
        stream,
        partial,
        content,
    })
}

/// Appends a line as the client wants it.
fn render(line: &[u8], options: &Options, into: &mut BytesMut) {
    let Some(line) = parse_line(line) else { return };
    if options.stream.is_some_and(|stream| stream != line.stream) {
        return;
    }
    if let Some(since) = options.since
        && line
            .time
            .parse::<Timestamp>()
            .is_ok_and(|time| time < since)
    {
        return;
    }
    if options.timestamps {
        into.extend_from_slice(line.time.as_bytes());
        into.extend_from_slice(b" ");
    }
    into.extend_from_slice(line.content);
    if !line.partial {
        into.extend_from_slice(b"\n");
    }
}

/// Where the last `lines` lines begin. Blocks.
fn tail_offset(file: &mut std::fs::File, lines: u64) -> std::io::Result<u64> {
    let end = file.metadata()?.len();
    if lines == 0 {
        return Ok(end);
    }
    let mut block_end = end;
    let mut seen = 0;
    let mut block = vec![0; TAIL_BLOCK as usize];
    while block_end > 0 {
        let start = block_end.saturating_sub(TAIL_BLOCK);
        let block = &mut block[..(block_end - start) as usize];
        file.seek(SeekFrom::Start(start))?;
        file.read_exact(block)?;
        for at in (0..block.len()).rev() {
            let last = start + at as u64 + 1 == end;
            if block[at] == b'\n' && !last {
                seen += 1;
                if seen == lines {
                    return Ok(start + at as u64 + 1);
                }
            }
        }
        block_end = start;
    }
    Ok(0)
}

/// The last lines of a log, at most so many bytes. Blocks.
pub(crate) fn tail(path: &Path, lines: usize, bytes: usize) -> String {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = std::fs::File::open(path)?;
        let offset = tail_offset(&mut file, lines as u64)?;
        file.seek(SeekFrom::Start(offset))?;
        let mut data = Vec::new();
        // Enough for the bytes wanted with their prefixes, and no more.
        file.take(1 << 20).read_to_end(&mut data)?;
        Ok(data)
    };
    let mut text = BytesMut::new();
    let options = Options::default();
    for line in read().unwrap_or_default().split(|byte| *byte == b'\n') {
        render(line, &options, &mut text);
    }
    let start = text.len().saturating_sub(bytes);
    String::from_utf8_lossy(&text[start..]).into_owned()
}

/// Reads a log to its end, or for as long as its container runs.
struct Follower {
    path: PathBuf,
    file: File,
    inode: u64,
    /// Bytes of a line that is not complete yet.
    rest: BytesMut,
    options: Options,
    written: u64,
    /// The container is over: the next end of file is the last.
    ended: bool,
    finished: bool,
    watch: Option<Receiver>,
    id: ContainerId,
    runtime: Arc<dyn ContainerRuntime>,
    events: broadcast::Receiver<ContainerEvent>,
}

impl Follower {
    async fn open(
        run: &ContainerStatus,
        options: Options,
        runtime: Arc<dyn ContainerRuntime>,
    ) -> std::io::Result<Self> {
        let path = run.log_path.clone();
        let events = runtime.events();
        // The folder is watched, so that rotation is seen, too.
        let watch = match options.follow {
            true => {
                let flags = inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC;
                let fd = inotify::init(flags)?;
                let events = inotify::WatchFlags::MODIFY
                    | inotify::WatchFlags::CREATE
                    | inotify::WatchFlags::MOVED_TO;
                inotify::add_watch(&fd, path.parent().unwrap_or(&path), events)?;
                // An inotify descriptor is polled and read as a pipe's end is.
                Some(Receiver::from_owned_fd_unchecked(fd)?)
            }
            false => None,
        };
        let ended = match runtime.container_status(&run.id).await {
            Ok(status) => status.state != ContainerState::Running,
            Err(_) => true,
        };
        let lines = options.tail;
        let opened = path.clone();
        let open = move || -> std::io::Result<(std::fs::File, u64)> {
            let mut file = std::fs::File::open(&opened)?;
            let offset = match lines {
                Some(lines) => tail_offset(&mut file, lines)?,
                None => 0,
            };
            file.seek(SeekFrom::Start(offset))?;
            let inode = file.metadata()?.ino();
            Ok((file, inode))
        };
        let (file, inode) = tokio::task::spawn_blocking(open)
            .await
            .map_err(std::io::Error::other)??;
        Ok(Self {
            path,
            file: File::from_std(file),
            inode,
            rest: BytesMut::new(),
            options,
            written: 0,
            ended,
            finished: false,
            watch,
            id: run.id.clone(),
            runtime,
            events,
        })
    }

    /// The next piece for the client; `None` at the end.
    async fn next(&mut self) -> Option<Bytes> {
        while !self.finished {
            let start = self.rest.len();
            self.rest.resize(start + CHUNK, 0);
            let read = self.file.read(&mut self.rest[start..]).await;
            self.rest.truncate(start + *read.as_ref().unwrap_or(&0));
            match read {
                Ok(0) => {
                    if !self.more_to_come().await {
                        self.finished = true;
                        let rest = self.rest.split();
                        let mut out = BytesMut::new();
                        render(&rest, &self.options, &mut out);
                        return self.limited(out);
                    }
                }
                Ok(_) => {
                    let out = self.take_lines();
                    if !out.is_empty() {
                        return self.limited(out);
                    }
                }
                Err(error) => {
                    tracing::debug!(path = %self.path.display(), %error, "reading a log");
                    return None;
                }
            }
        }
        None
    }

    fn take_lines(&mut self) -> BytesMut {
        let mut out = BytesMut::new();
        while let Some(at) = self.rest.iter().position(|byte| *byte == b'\n') {
            let line = self.rest.split_to(at + 1);
            render(&line[..at], &self.options, &mut out);
        }
        out
    }

    fn limited(&mut self, mut out: BytesMut) -> Option<Bytes> {
        if let Some(limit) = self.options.limit {
            let left = limit.saturating_sub(self.written);
            if out.len() as u64 >= left {
                out.truncate(usize::try_from(left).unwrap_or(usize::MAX));
                self.finished = true;
            }
        }
        self.written += out.len() as u64;
        (!out.is_empty()).then(|| out.freeze())
    }

    /// At the end of the file: waits for more if there can be; false if not.
    async fn more_to_come(&mut self) -> bool {
        let Some(watch) = &self.watch else {
            return false;
        };
        // The file was rotated away: go on with its successor.
        if let Ok(metadata) = tokio::fs::metadata(&self.path).await
            && metadata.ino() != self.inode
            && let Ok(file) = File::open(&self.path).await
        {
            self.inode = metadata.ino();
            self.file = file;
            return true;
        }
        if self.ended {
            return false;
        }
        loop {
            tokio::select! {
                ready = watch.readable() => {
                    if ready.is_err() {
                        return false;
                    }
                    let mut buffer = [0_u8; 4096];
                    while watch.try_read(&mut buffer).is_ok_and(|read| read > 0) {}
                    // A truncated file is read from its start.
                    if let (Ok(position), Ok(metadata)) =
                        (self.file.stream_position().await, self.file.metadata().await)
                        && metadata.len() < position
                    {
                        self.file.seek(SeekFrom::Start(0)).await.ok();
                    }
                    return true;
                }
                event = self.events.recv() => {
                    let own = match &event {
                        Ok(ContainerEvent::Exited(_, id)) => *id == self.id,
                        Ok(ContainerEvent::Started(..)) => false,
                        Ok(ContainerEvent::SandboxLost(_)) | Err(_) => true,
                    };
                    if own {
                        let status = self.runtime.container_status(&self.id).await;
                        if !status.is_ok_and(|status| status.state == ContainerState::Running) {
                            self.ended = true;
                            return true;
                        }
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use proptest::prelude::*;

    const LOG: &str = "2026-01-01T00:00:01.000000000Z stdout F one\n\
                       2026-01-01T00:00:02.000000000Z stderr F two\n\
                       2026-01-01T00:00:03.000000000Z stdout P thr\n\
                       2026-01-01T00:00:03.100000000Z stdout F ee\n\
                       2026-01-01T00:00:04.000000000Z stdout F \n\
                       broken\n";

    fn rendered(options: &Options) -> String {
        let mut out = BytesMut::new();
        for line in LOG.split_terminator('\n') {
            render(line.as_bytes(), options, &mut out);
        }
        String::from_utf8_lossy(&out).into_owned()
    }

    #[test]
    fn renders_lines() {
        let check = |options: Options, want: &str| assert_eq!(rendered(&options), want);
        check(Options::default(), "one\ntwo\nthree\n\n");
        check(
            Options {
                stream: Some("stderr"),
                ..Default::default()
            },
            "two\n",
        );
        let since = Some("2026-01-01T00:00:02Z".parse().unwrap());
        check(
            Options {
                since,
                ..Default::default()
            },
            "two\nthree\n\n",
        );
        let stamped = rendered(&Options {
            timestamps: true,
            ..Default::default()
        });
        assert!(
            stamped.starts_with("2026-01-01T00:00:01.000000000Z one\n"),
            "{stamped}"
        );
    }

    #[test]
    fn parses_options() {
        let parse = |query: &str| {
            let uri = format!("/x?{query}").parse().unwrap();
            Options::parse(&Query::of(&uri), Timestamp::from_second(100).unwrap())
        };
        let got = parse("follow=true&tailLines=5&sinceSeconds=10&limitBytes=7").unwrap();
        assert!(got.follow);
        assert_eq!((got.tail, got.limit), (Some(5), Some(7)));
        assert_eq!(got.since, Some(Timestamp::from_second(90).unwrap()));
        assert!(parse("tailLines=-1").is_err());
        assert!(parse("sinceTime=yesterday").is_err());
        assert!(parse("stream=Both").is_err());
    }

    #[test]
    fn takes_the_last_lines() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        std::fs::write(&path, LOG).unwrap();
        assert_eq!(tail(&path, 3, 100), "ee\n\n");
        assert_eq!(tail(&path, 80, 100), "one\ntwo\nthree\n\n");
        assert_eq!(tail(&path, 80, 3), "e\n\n");
        assert_eq!(tail(&dir.path().join("none"), 80, 100), "");
    }

    proptest! {
        #[test]
        fn tail_is_the_end_of_the_file(
            lines in prop::collection::vec("[a-z]{0,9000}", 0..12), wanted in 0_u64..14
        ) {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("log");
            let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
            std::fs::write(&path, &text).unwrap();
            let offset = tail_offset(&mut std::fs::File::open(&path).unwrap(), wanted).unwrap();
            let skip = lines.len().saturating_sub(wanted as usize);
            let want: String = lines[skip..].iter().map(|line| format!("{line}\n")).collect();
            prop_assert_eq!(&text[offset as usize..], want.as_str());
        }

        #[test]
        fn any_bytes_are_a_line_or_nothing(line in prop::collection::vec(any::<u8>(), 0..200)) {
            render(&line, &Options::default(), &mut BytesMut::new());
        }
    }
}
