//! `karve image`: asks the daemon, which owns the image store.

use std::io::{IsTerminal, Write};
use std::path::Path;

use anyhow::{Context, Result};

use crate::args::Image;
use crate::control::{self, Reply, Request};

pub(crate) fn run(command: Image) -> Result<()> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting the runtime")?
        .block_on(carry_out(command))
}

async fn carry_out(command: Image) -> Result<()> {
    let socket = Path::new(control::SOCKET);
    match command {
        Image::Import { archives } => {
            for archive in archives {
                // The daemon has another working folder.
                let archive = archive
                    .canonicalize()
                    .with_context(|| format!("cannot read {}", archive.display()))?;
                let what = format!("importing {}", archive.display());
                let request = Request::Import { archive };
                control::ask(socket, &request, print_names)
                    .await
                    .context(what)?;
            }
        }
        Image::Pull { reference } => {
            let what = format!("pulling {reference}");
            let request = Request::Pull { reference };
            control::ask(socket, &request, print_names)
                .await
                .context(what)?;
        }
        Image::Ls => {
            let mut rows = vec![["IMAGE".to_owned(), "ID".to_owned(), "SIZE".to_owned()]];
            control::ask(socket, &Request::List, |reply| {
                if let Reply::Image { image } = reply {
                    let id = image
                        .id
                        .trim_start_matches("sha256:")
                        .chars()
                        .take(13)
                        .collect();
                    let size = megabytes(image.size);
                    let names = if image.repo_tags.is_empty() {
                        image.repo_digests
                    } else {
                        image.repo_tags
                    };
                    let name = if names.is_empty() {
                        "<none>".to_owned()
                    } else {
                        names.join(",")
                    };
                    rows.push([name, id, size]);
                }
            })
            .await?;
            print_table(&rows);
        }
        Image::Rm { references } => {
            for reference in references {
                let request = Request::Remove {
                    reference: reference.clone(),
                };
                control::ask(socket, &request, |_| {}).await?;
                println!("{reference}");
            }
        }
    }
    Ok(())
}

fn print_names(reply: Reply) {
    match reply {
        Reply::Image { image } => {
            for name in image.repo_tags.iter().chain(&image.repo_digests).take(1) {
                println!("{name}");
            }
        }
        Reply::Progress { received, total } if std::io::stderr().is_terminal() => {
            let total = total
                .map(|total| format!(" of {}", megabytes(total)))
                .unwrap_or_default();
            eprint!("\r{}{total}\x1b[K", megabytes(received));
            let _ = std::io::stderr().flush();
        }
        _ => {}
    }
}

fn megabytes(bytes: u64) -> String {
    format!("{}.{} MB", bytes / 1_000_000, bytes / 100_000 % 10)
}

fn print_table(rows: &[[String; 3]]) {
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let (name, id) = (width(0), width(1));
    for row in rows {
        println!("{:name$}   {:id$}   {}", row[0], row[1], row[2]);
    }
}
