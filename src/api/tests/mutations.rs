//! Every decoder of this crate against damaged input.
//!
//! Each target is given its seeds, then mutations of them from a fixed
//! sequence, so that a failure repeats. A target must return: a panic, an
//! overflow of the stack or a hang is the finding. `KARVE_LONG=1` runs many
//! more.

#[path = "targets/mod.rs"]
mod targets;

use targets::TARGETS;

/// Bytes that mean something to one decoder or another.
const MARKS: &[u8] = b"{}[]\",:\\-&*!|>%\0\xff0";

/// Mutations of each target in the short form.
const SHORT: usize = 3_000;
/// And in the long one.
const LONG: usize = 2_000_000;

/// A small generator whose sequence depends on its seed alone.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }
}

/// Damages a seed: bytes changed, cut, doubled, or another seed spliced in.
fn mutate(seed: &[u8], others: &[&[u8]], random: &mut Random) -> Vec<u8> {
    let mut data = seed.to_vec();
    for _ in 0..=random.below(4) {
        let at = random.below(data.len());
        match random.below(7) {
            0 if !data.is_empty() => data[at] ^= 1 << random.below(8),
            1 if !data.is_empty() => data[at] = random.next() as u8,
            2 => data.truncate(at),
            3 => data.insert(at, MARKS[random.below(MARKS.len())]),
            4 => {
                let end = (at + random.below(32)).min(data.len());
                let part = data[at..end].to_vec();
                data.splice(at..at, part.repeat(random.below(4)));
            }
            5 => {
                let end = (at + random.below(16)).min(data.len());
                data.drain(at..end);
            }
            _ => {
                let other = others[random.below(others.len())];
                let from = random.below(other.len());
                data.splice(at..at, other[from..].iter().copied().take(64));
            }
        }
    }
    data
}

#[test]
fn decoders_return() {
    let rounds = match std::env::var_os("KARVE_LONG") {
        Some(_) => LONG,
        None => SHORT,
    };
    for target in TARGETS {
        println!("{}", target.name);
        let mut random = Random(0x9e37_79b9_7f4a_7c15);
        for seed in target.seeds {
            (target.run)(seed);
        }
        for round in 0..rounds {
            let seed = target.seeds[round % target.seeds.len()];
            (target.run)(&mutate(seed, target.seeds, &mut random));
        }
    }
}

/// What nests deeper than a request may is refused before it is walked; what
/// nests as deep as it may is walked on the stack of a worker.
#[test]
fn nesting_fits_the_stack() {
    let (open, close) = ("[".repeat(250), "]".repeat(250));
    let lists = format!("{{\"x\":{open}{close}}}");
    let maps = format!("{}1{}", "{\"x\":".repeat(250), "}".repeat(250));
    let endless = "[".repeat(1 << 20);
    let worker = std::thread::Builder::new().stack_size(2 << 20);
    let walk = move || {
        for text in [lists, maps, endless] {
            for target in TARGETS {
                (target.run)(text.as_bytes());
            }
        }
    };
    let worker = worker.spawn(walk).expect("threads can be started");
    worker.join().expect("no target panics");
}
