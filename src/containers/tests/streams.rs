//! Exec, attach and terminals.

use std::time::Duration;

use cri::{ContainerConfig, ContainerRuntime, ErrorKind, ExecRequest, TerminalSize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{Node, WAIT, on_node, shell, until};

fn words(text: &str) -> Vec<String> {
    text.split(' ').map(str::to_owned).collect()
}

fn sh(script: &str) -> Vec<String> {
    vec!["/bin/sh".into(), "-c".into(), script.into()]
}

#[test]
fn exec_to_its_end() {
    on_node(|node: Node| async move {
        let image = node.image().await;
        let sandbox = node.sandbox("exec").await;
        let id = node.run(&sandbox, &shell(&image, "sleep 1000")).await;
        let run = |script: &str| {
            let script = sh(script);
            let (node, id) = (&node, &id);
            async move {
                node.runtime
                    .exec_sync(id, &script, Duration::from_secs(10))
                    .await
            }
        };
        let done = run("echo out; echo err >&2; exit 4").await.unwrap();
        assert_eq!(
            (done.stdout, done.stderr, done.code),
            (b"out\n".into(), b"err\n".into(), 4)
        );
        let done = run("kill -9 $$").await.unwrap();
        assert_eq!(done.code, 137);
        let done = run("head -c 300000 /dev/zero").await.unwrap();
        assert_eq!(done.stdout.len(), 300_000);
        let error = node
            .runtime
            .exec_sync(&id, &words("foo"), WAIT)
            .await
            .unwrap_err();
        assert_eq!(error.kind, ErrorKind::CannotRun);
        assert!(
            error
                .message
                .ends_with("exec: \"foo\": executable file not found in $PATH"),
            "{error}"
        );
        let slow = node
            .runtime
            .exec_sync(&id, &sh("sleep 777"), Duration::from_millis(700))
            .await;
        assert_eq!(slow.unwrap_err().kind, ErrorKind::DeadlineExceeded);
        // It is killed, not only given up.
        let mut left = b"x".to_vec();
        for _ in 0..50 {
            left = run("ps | grep '[s]leep 777'").await.unwrap().stdout;
            if left.is_empty() {
                break;
            }
        }
        assert_eq!(left, b"");
        let state = node
            .path("run/pods")
            .join(&sandbox.0)
            .join("state")
            .join(&id.0);
        let tenants = std::fs::read_dir(state).unwrap().flatten();
        assert_eq!(
            tenants
                .filter(|e| e.file_name().to_string_lossy().starts_with("tenant"))
                .count(),
            0
        );
        node.runtime.remove_pod_sandbox(&sandbox).await.unwrap();
    });
}

#[test]
fn exec_with_streams() {
    on_node(|node: Node| async move {
        let image = node.image().await;
        let sandbox = node.sandbox("exec").await;
        let id = node.run(&sandbox, &shell(&image, "sleep 1000")).await;
        let request = ExecRequest {
            command: sh("cat; exit 9"),
            stdin: true,
            stdout: true,
            ..ExecRequest::default()
        };
        let mut streams = node.runtime.exec(&id, &request).await.unwrap();
        let mut stdin = streams.stdin.take().unwrap();
        stdin.write_all(b"through and back").await.unwrap();
        stdin.shutdown().await.unwrap();
        let mut text = String::new();
        streams
            .stdout
            .take()
            .unwrap()
            .read_to_string(&mut text)
            .await
            .unwrap();
        assert_eq!(text, "through and back");
        assert_eq!(streams.exit.await.unwrap().unwrap().code, 9);

        let request = ExecRequest {
            command: sh("stty size; read line; stty size; echo got $line"),
            stdin: true,
            stdout: true,
            tty: true,
            ..ExecRequest::default()
        };
        let mut streams = node.runtime.exec(&id, &request).await.unwrap();
        streams
            .resize
            .send(TerminalSize {
                width: 101,
                height: 42,
            })
            .await
            .unwrap();
        tokio::time::sleep(Duration::from_millis(300)).await;
        streams
            .stdin
            .as_mut()
            .unwrap()
            .write_all(b"word\n")
            .await
            .unwrap();
        let mut text = String::new();
        streams
            .stdout
            .take()
            .unwrap()
            .read_to_string(&mut text)
            .await
            .unwrap();
        assert!(
            text.contains("42 101") && text.contains("got word"),
            "{text:?}"
        );
        assert_eq!(streams.exit.await.unwrap().unwrap().code, 0);
        node.runtime.remove_pod_sandbox(&sandbox).await.unwrap();
    });
}

#[test]
fn a_terminal_belongs_to_its_user() {
    on_node(|node: Node| async move {
        let image = node.image().await;
        let sandbox = node.sandbox("terminal").await;
        let mut config = shell(&image, "sleep 1; echo reopened > /dev/stdout; sleep 1000");
        config.tty = true;
        config.security.run_as_user = Some(cri::ContainerUser::Uid(33));
        let id = node.run(&sandbox, &config).await;
        let log = node.runtime.container_status(&id).await.unwrap().log_path;
        until("the terminal is reopened", || {
            std::fs::read_to_string(&log).is_ok_and(|text| text.contains("F reopened"))
        })
        .await;
        let left = std::fs::read_dir(node.path("run/pods").join(&sandbox.0)).unwrap();
        let sockets = left
            .flatten()
            .filter(|e| e.file_name().to_string_lossy().starts_with("tty"));
        assert_eq!(sockets.count(), 0);
        node.runtime.remove_pod_sandbox(&sandbox).await.unwrap();
    });
}

#[test]
fn attach_follows_and_feeds() {
    on_node(|node: Node| async move {
        let image = node.image().await;
        let sandbox = node.sandbox("attach").await;
        let config = ContainerConfig {
            stdin: true,
            stdin_once: true,
            ..shell(&image, "echo ready; cat; echo after; echo warn >&2; exit 6")
        };
        let id = node.run(&sandbox, &config).await;
        let request = ExecRequest {
            stdin: true,
            stdout: true,
            stderr: true,
            ..ExecRequest::default()
        };
        let mut streams = node.runtime.attach(&id, &request).await.unwrap();
        let mut stdin = streams.stdin.take().unwrap();
        stdin.write_all(b"hello\n").await.unwrap();
        stdin.shutdown().await.unwrap();
        let (mut out, mut err) = (String::new(), String::new());
        streams
            .stdout
            .take()
            .unwrap()
            .read_to_string(&mut out)
            .await
            .unwrap();
        streams
            .stderr
            .take()
            .unwrap()
            .read_to_string(&mut err)
            .await
            .unwrap();
        assert!(out.ends_with("hello\nafter\n"), "{out:?}");
        assert_eq!(err, "warn\n");
        assert_eq!(streams.exit.await.unwrap().unwrap().code, 6);
        let log = node.log(&id).await;
        assert_eq!(
            log.iter().filter(|l| *l == "stdout F hello").count(),
            1,
            "{log:?}"
        );

        let config = ContainerConfig {
            stdin: true,
            tty: true,
            ..shell(&image, "read line; stty size; echo got $line; sleep 1000")
        };
        let id = node.run(&sandbox, &config).await;
        let request = ExecRequest {
            stdin: true,
            stdout: true,
            tty: true,
            ..ExecRequest::default()
        };
        let mut streams = node.runtime.attach(&id, &request).await.unwrap();
        streams
            .resize
            .send(TerminalSize {
                width: 99,
                height: 11,
            })
            .await
            .unwrap();
        tokio::time::sleep(Duration::from_millis(300)).await;
        streams
            .stdin
            .as_mut()
            .unwrap()
            .write_all(b"tty\n")
            .await
            .unwrap();
        let mut text = String::new();
        let mut stdout = streams.stdout.take().unwrap();
        while !text.contains("got tty") {
            let mut buffer = [0; 100];
            let read = tokio::time::timeout(WAIT, stdout.read(&mut buffer)).await;
            text += &String::from_utf8_lossy(&buffer[..read.unwrap().unwrap()]);
        }
        assert!(text.contains("11 99"), "{text:?}");
        drop((streams, stdout));
        let log = node.runtime.container_status(&id).await.unwrap().log_path;
        until("the terminal is logged", || {
            std::fs::read_to_string(&log).unwrap().contains("got tty")
        })
        .await;
        node.runtime.remove_pod_sandbox(&sandbox).await.unwrap();
    });
}

#[test]
fn logs_are_rotated_and_cut() {
    on_node(|node: Node| async move {
        let image = node.image().await;
        let sandbox = node.sandbox("logs").await;
        let config = ContainerConfig {
            log_max_size: 100_000,
            log_max_files: 3,
            ..shell(
                &image,
                "head -c 20000 /dev/zero | tr '\\0' x; echo; yes | head -n 20000",
            )
        };
        let id = node.run(&sandbox, &config).await;
        node.exit(&id).await;
        let path = node.runtime.container_status(&id).await.unwrap().log_path;
        let files = std::fs::read_dir(path.parent().unwrap()).unwrap().count();
        assert_eq!(files, 3);
        node.runtime.remove_pod_sandbox(&sandbox).await.unwrap();
    });
}
