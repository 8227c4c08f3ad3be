//! The fuzz targets without a fuzzer, so that the gate needs none: each over its seeds, the kept corpus (what fuzzing
//! found that reaches new code, and whatever once broke a promise), and a bounded number of mutations of both.
//!
//! `FUZZ_SEED` chooses other mutations; a failure prints it, and the input.

mod targets;

use std::{
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    time::{Duration, Instant},
};

use rand::{Rng as _, SeedableRng as _, rngs::SmallRng};
// The mounted files find their house here.
use roster::{model, registry, wire};

use targets::{TARGETS, Target, Verdict, raft};

/// Mutations of each target, at the most.
const MUTATIONS: usize = 4_000;
/// What they may take together.
const MUTATING_MAX: Duration = Duration::from_secs(3);
/// The longest input that is mutated to.
const INPUT_MAX_BYTES: usize = 8 << 10;
const SEED_DEFAULT: u64 = 20_261_121;

/// The kept inputs of a target.
fn corpus(target: &Target) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fuzz/corpus")
        .join(target.name);
    let mut files: Vec<_> = fs::read_dir(&folder)
        .map(|entries| {
            entries
                .map(|entry| entry.expect("the checkout can be read").path())
                .collect()
        })
        .unwrap_or_default();
    files.sort();
    files
        .iter()
        .map(|file| fs::read(file).expect("the checkout can be read"))
        .collect()
}

fn run(target: &Target, input: &[u8], seed: u64) -> Verdict {
    catch_unwind(AssertUnwindSafe(|| target.run(input))).unwrap_or_else(|_panic| {
        let hex: String = input.iter().map(|byte| format!("{byte:02x}")).collect();
        panic!(
            "{} broke a promise with FUZZ_SEED={seed}, input (hex) {hex}",
            target.name
        )
    })
}

/// One of the few changes that a fuzzer makes.
fn mutate(input: &mut Vec<u8>, other: &[u8], random: &mut SmallRng) {
    const TELLING: [u8; 8] = [0, 1, 0x7f, 0x80, 0xff, b'/', 0x0a, 0x12];
    let at = random.random_range(0..=input.len());
    match random.random_range(0..8) {
        0 if at < input.len() => input[at] ^= 1 << random.random_range(0..8),
        1 if at < input.len() => input[at] = random.random(),
        2 if at < input.len() => input[at] = TELLING[random.random_range(0..TELLING.len())],
        3 => input.truncate(at),
        4 => input.insert(at, random.random()),
        // The largest varint.
        5 => drop(input.splice(at..at, [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1])),
        6 => {
            let end = random.random_range(at..=input.len());
            let part = input[at..end].to_vec();
            input.splice(at..at, part);
        }
        _ => {
            let from = random.random_range(0..=other.len());
            let end = random.random_range(from..=other.len());
            input.splice(at..at, other[from..end].iter().copied());
        }
    }
    input.truncate(INPUT_MAX_BYTES);
}

#[test]
fn seeds_are_taken_and_no_mutation_breaks_a_promise() {
    let seed = std::env::var("FUZZ_SEED").map_or(SEED_DEFAULT, |text| text.parse().expect("FUZZ_SEED is a number"));
    for target in TARGETS {
        let mut random = SmallRng::seed_from_u64(seed);
        let mut inputs = target.seeds();
        for input in &inputs {
            assert_eq!(
                run(target, input, seed),
                Verdict::Taken,
                "a seed of {}: {input:?}",
                target.name
            );
        }
        let kept = corpus(target);
        for input in &kept {
            run(target, input, seed);
        }
        inputs.extend(kept);
        let began = Instant::now();
        let (mut mutations, mut taken) = (0, 0);
        while mutations < MUTATIONS && began.elapsed() < MUTATING_MAX {
            let mut input = inputs[random.random_range(0..inputs.len())].clone();
            let other = &inputs[random.random_range(0..inputs.len())];
            for _ in 0..random.random_range(1..5) {
                mutate(&mut input, other, &mut random);
            }
            taken += usize::from(run(target, &input, seed) == Verdict::Taken);
            mutations += 1;
        }
        println!(
            "{}: {} inputs, {mutations} mutations, {taken} taken",
            target.name,
            inputs.len()
        );
    }
}

#[test]
fn every_target_has_its_binary() {
    let manifest = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/Cargo.toml"));
    let manifest = manifest.expect("the checkout can be read");
    let binaries: Vec<&str> = manifest
        .split("[[bin]]")
        .skip(1)
        .filter_map(|section| section.split('"').nth(1))
        .collect();
    let targets: Vec<&str> = binaries.iter().map(|name| targets::named(name).name).collect();
    let known: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
    assert_eq!(targets, known);
}
