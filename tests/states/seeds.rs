//! What a process holds: `KIND.NUMBER+KIND.NUMBER…`, from a seed or from a row of `corpus.txt`.

use std::process::Command;

use crate::harness::{needed, text};

/// The kinds of objects that the service can hold; of these, those that `FREEZE_STATES_KINDS` names, if it is set.
pub fn kinds() -> Vec<String> {
    if let Ok(named) = std::env::var("FREEZE_STATES_KINDS") {
        return named.split(',').map(str::to_owned).collect();
    }
    let service = format!("{}/service", needed("FREEZE_TEST_SERVICES"));
    let out = Command::new(service).args(["states", "kinds"]).output().unwrap();
    text(&out.stdout).lines().map(str::to_owned).collect()
}

/// Two to eight objects of any kinds.
pub fn spec(seed: u64, kinds: &[String]) -> String {
    let mut random = seed;
    let mut draw = |limit: usize| {
        // splitmix64
        random = random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % limit as u64) as usize
    };
    let objects: Vec<_> =
        (0..2 + draw(7)).map(|_| format!("{}.{}", kinds[draw(kinds.len())], draw(1_000_000))).collect();
    objects.join("+")
}

/// A state that has failed once.
pub struct Known {
    pub name: String,
    pub spec: String,
    /// By what it is refused; empty if it moves.
    pub refused: String,
}

/// Rows like `NAME | SPEC | same` and `NAME | SPEC | refused WORDS`.
pub fn corpus() -> Vec<Known> {
    let rows = include_str!("corpus.txt").lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    rows.map(|line| {
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        let [name, spec, outcome] = cells[..] else { panic!("no row of a corpus: {line}") };
        let refused = outcome.strip_prefix("refused").map_or("", str::trim);
        Known { name: name.into(), spec: spec.into(), refused: refused.into() }
    })
    .collect()
}
