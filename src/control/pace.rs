//! The rounds of a move, as clients ask for them and hear of them.

use serde::{Deserialize, Serialize};

/// How short the last step of a move is to be, and what to do if rounds cannot make it so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Pace {
    /// For how many milliseconds the service may stand still, as predicted.
    pub max_downtime_ms: u64,
    /// What follows if it is predicted to stand still longer.
    pub if_not_converging: NotConverging,
}

/// What follows if no round makes the last step short enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum NotConverging {
    /// Move all the same
    Go,
    /// Fail, and let the service run on
    GiveUp,
}

impl Pace {
    /// Of a move whose request says nothing.
    pub const DEFAULT: Self = Self { max_downtime_ms: 300, if_not_converging: NotConverging::Go };
}

impl Default for Pace {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// Figures of a round of a move.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoundReport {
    /// Its number, from 1.
    pub round: u32,
    /// The committed generation.
    pub generation: u64,
    /// Bytes of private memory that were read: those that have changed since the round before.
    pub read: u64,
    /// Bytes of it that changed in a second; 0 for the first round, where nobody knows.
    pub changes: u64,
    /// How long the service was frozen, in ms.
    pub frozen_ms: u64,
    /// How long the service would stand still in the last step, in ms, if that came next; `None` if nobody knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub predicted_ms: Option<u64>,
}
