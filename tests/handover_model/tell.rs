//! Events in words.

use std::fmt;

use crate::code::{Answer, Ask, Code, Mode, Object, Put, Then};
use crate::steps::*;
use crate::world::{Event, State, What, World};

impl World {
    /// An event, with the state before it.
    pub fn tell(&self, state: &State, Event { who, what, surprises }: Event) -> String {
        let code = &self.code;
        if let What::CarriesOut(put) = what {
            return format!("a late request is carried out: {}", code.tell_put(put));
        }
        if let What::RemovesMark(key) = what {
            return format!("a prune removes {}", code.keys[usize::from(key)]);
        }
        let at = code.at(state.nodes[who]);
        let call = || match at.then {
            Some(Then::Ask(ask)) => code.tell_ask(ask),
            _ => String::new(),
        };
        let what = match what {
            What::Hears(answer) => format!("{}: {}", call(), code.tell_answer(answer)),
            What::GetsNoReply => format!("{}: carried out, but no reply", call()),
            What::AskedInVain => format!("{}: lost", call()),
            What::AskedTooEarly => format!("{}: late, and no reply", call()),
            What::Begins(Step::Down) => "the container dies".to_owned(),
            What::Begins(step) => format!("goes on with: {step}"),
            What::WorkerDies => "the worker dies".to_owned(),
            What::CriuDies => "CRIU dies".to_owned(),
            What::ReplacesTheOthers => "starts in the place of the others".to_owned(),
            What::CarriesOut(_) | What::RemovesMark(_) => unreachable!("the arms above have them"),
        };
        let mark = if surprises > 0 { "! " } else { "" };
        format!("{mark}{} ({}): {what}", NAMES[at.who], at.step)
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Down => write!(f, "down"),
            Step::Start => write!(f, "reads head"),
            Step::Look(found) => write!(f, "looks whether to wait, having found {}", found.lease.generation),
            Step::Wait => write!(f, "waits"),
            Step::Chosen(found) => write!(f, "says that it restores {}", found.lease.generation),
            Step::Restored(found) => write!(f, "has restored {}, not run yet", found.lease.generation),
            Step::Claims(lease, _) => write!(f, "runs {} and claims head", lease.generation),
            Step::Runs(lease) => write!(f, "runs, {} known", lease.generation),
            Step::Commits(after_commit, _) => write!(f, "commits, after_commit {after_commit:?}"),
            Step::Offered(generation, _) => write!(f, "still, offers {generation}"),
            Step::Withdraws(_, generation, _) => write!(f, "still, withdraws {generation}"),
        }
    }
}

impl Code {
    fn tell_ask(&self, ask: Ask) -> String {
        match ask {
            Ask::Get(key) => format!("get {}", self.keys[usize::from(key)]),
            Ask::List(prefix) => format!("list {}", self.prefixes[usize::from(prefix)]),
            Ask::Put(put) => self.tell_put(put),
        }
    }

    fn tell_put(&self, Put { key, object, mode }: Put) -> String {
        let mode = match mode {
            Mode::Overwrite => "put",
            Mode::Create => "create",
            Mode::Update(_) => "update",
        };
        format!("{mode} {} {}", self.keys[usize::from(key)], self.tell_object(object))
    }

    fn tell_answer(&self, answer: Answer) -> String {
        match answer {
            Answer::Object(object) => self.tell_object(object),
            Answer::Keys(bits) => {
                let keys = self.keys.iter().enumerate().filter(|(key, _)| bits & 1 << key != 0);
                keys.map(|(_, key)| key.as_str()).collect::<Vec<_>>().join(", ")
            }
            answer => format!("{answer:?}"),
        }
    }

    /// What is JSON but for its hash; anything else by its number.
    fn tell_object(&self, object: Object) -> String {
        let text = String::from_utf8_lossy(&self.object(object).data).into_owned();
        let Some(begin) = text.find("{\"") else { return format!("#{object}") };
        let (told, _) = text[begin..].split_once(",\"mac\"").unwrap_or((&text[begin..], ""));
        told.to_owned()
    }
}
