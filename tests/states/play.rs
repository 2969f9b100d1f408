//! Moves a container with many processes, each with a state of its own, and compares them.

use std::fmt;
use std::time::{Duration, Instant};

use freeze::exit;
use serde_json::Value;

use crate::harness::{App, Container, Setting, text};
use crate::outside;

/// What became of a process.
#[derive(Debug)]
pub enum Outcome {
    Same,
    /// By the words of the preflight.
    Refused(String),
    /// Why, and which objects are enough for it.
    Failed(String, String),
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Same => write!(f, "same"),
            Self::Refused(words) => write!(f, "refused: {words}"),
            Self::Failed(..) => write!(f, "failed"),
        }
    }
}

/// One container after another, with a process for each of `specs`. If they fail together, each half is played alone.
pub fn play(setting: Setting, specs: &[String]) -> Vec<Outcome> {
    let mut play = Play { setting, specs, outcomes: specs.iter().map(|_| None).collect() };
    match play.run() {
        Ok(()) => play.outcomes.into_iter().map(|outcome| outcome.unwrap_or(Outcome::Same)).collect(),
        Err(why) => match specs {
            [alone] => vec![Outcome::Failed(why, alone.clone())],
            _ => specs.chunks(specs.len().div_ceil(2)).flat_map(|half| self::play(setting, half)).collect(),
        },
    }
}

struct Play<'a> {
    setting: Setting,
    specs: &'a [String],
    outcomes: Vec<Option<Outcome>>,
}

/// What is seen of one process and of those that it has made: from inside, then in /proc.
type View = Vec<String>;

impl Play<'_> {
    fn run(&mut self) -> Result<(), String> {
        let words: Vec<_> = ["states"].into_iter().chain(self.specs.iter().map(String::as_str)).collect();
        let app = App::new(self.setting, &words).with_rounds();
        let container = app.start();
        runs(&container)?;
        self.leave_out_what_is_refused(&container)?;
        let before = self.look(&container)?;
        checkpoint(&container, &["--leave-running"])?;
        self.compare("left running", &before, &container)?;
        container.kill("KILL");
        container.wait();
        let second = app.start();
        runs(&second)?;
        self.compare("gone on from copies", &before, &second)?;
        let third = app.start_with(&["--standby", "--standby-poll", "20ms"]);
        third.reaches("standby");
        checkpoint(&second, &["--handover"])?;
        runs(&third)?;
        self.compare("moved in rounds", &before, &third)
    }

    fn left(&self) -> impl Iterator<Item = usize> {
        (0..self.specs.len()).filter(|number| !matches!(self.outcomes[*number], Some(Outcome::Refused(_))))
    }

    fn look(&self, container: &Container) -> Result<Vec<(usize, View)>, String> {
        self.left().map(|number| Ok((number, view(container, number)?))).collect()
    }

    fn leave_out_what_is_refused(&mut self, container: &Container) -> Result<(), String> {
        for finding in refusals(container)? {
            let Some(pid) = finding["process"]["pid"].as_i64() else { return Err(finding.to_string()) };
            let left: Vec<_> = self.left().collect();
            let owner = left.into_iter().find(|number| {
                ask(container, &format!("describe {number}")).is_ok_and(|answer| pids(&answer).contains(&(pid as i32)))
            });
            // More than one finding may be of the same process, which has gone by now.
            let Some(number) = owner else { continue };
            let words = finding["what"].as_str().unwrap_or_default();
            self.outcomes[number] = Some(Outcome::Refused(general(words)));
            ask(container, &format!("drop {number}"))?;
        }
        Ok(())
    }

    /// Every process must look as it did; one that does not is none of the others' concern.
    fn compare(&mut self, when: &str, before: &[(usize, View)], container: &Container) -> Result<(), String> {
        for (number, was) in before {
            let is = view(container, *number)?;
            let other = difference(was, &is);
            if self.outcomes[*number].is_none() && !other.is_empty() {
                let why = format!("  after {when}\n{other}");
                self.outcomes[*number] = Some(Outcome::Failed(why, self.specs[*number].clone()));
            }
        }
        Ok(())
    }
}

/// Waits until the service runs; a restore that fails ends the container.
fn runs(container: &Container) -> Result<(), String> {
    let until = Instant::now() + Duration::from_secs(60);
    while !container.status().is_some_and(|status| status.contains(r#""state":"running""#)) {
        if container.has_ended() || Instant::now() > until {
            return Err(format!("it does not start\n{}", container.story()));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let answer = ask(container, "verify")?;
    if answer.starts_with("ok") { Ok(()) } else { Err(answer) }
}

fn ask(container: &Container, word: &str) -> Result<String, String> {
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        match container.ask_within(Duration::from_secs(15), word) {
            Some(answer) if answer.starts_with("ok") => return Ok(answer),
            Some(answer) => return Err(format!("{word}: {answer}")),
            None if container.has_ended() || Instant::now() > until => {
                return Err(format!("{word}: no answer\n{}", container.story()));
            }
            None => std::thread::sleep(Duration::from_millis(5)),
        }
    }
}

fn checkpoint(container: &Container, options: &[&str]) -> Result<(), String> {
    let out = container.try_checkpoint(options);
    if out.status.success() { Ok(()) } else { Err(format!("{}{}", text(&out.stderr), container.story())) }
}

/// What the preflight refuses, without a checkpoint.
fn refusals(container: &Container) -> Result<Vec<Value>, String> {
    let runtime_dir = ["--runtime-dir", "/runtime"];
    let out = container.exec(&[&["/opt/freeze/freeze", "doctor", "--service", "--json"], &runtime_dir[..]].concat());
    if ![Some(0), Some(exit::FAILED.into())].contains(&out.status.code()) {
        return Err(text(&out.stderr));
    }
    let answer: Value = serde_json::from_slice(&out.stdout).map_err(|error| error.to_string())?;
    let findings = answer["findings"].as_array().cloned().unwrap_or_default();
    Ok(findings.into_iter().filter(|finding| finding["severity"] == "refused").collect())
}

/// The PIDs that a group has had: `ok FIRST-LAST…`.
fn pids(answer: &str) -> std::ops::RangeInclusive<i32> {
    let word = answer.split(['\t', ' ']).nth(1).unwrap_or_default();
    let (first, last) = word.split_once('-').unwrap_or_else(|| panic!("no PIDs: {answer}"));
    first.parse().unwrap()..=last.parse().unwrap()
}

fn view(container: &Container, number: usize) -> Result<View, String> {
    let answer = ask(container, &format!("describe {number}"))?;
    let inside = answer.split('\t').skip(1).map(str::to_owned);
    Ok(inside.chain(outside::describe(container.pid(), &pids(&answer))).collect())
}

/// The first lines that only one of them has.
fn difference(was: &View, is: &View) -> String {
    let only = |sign, these: &View, those: &View| {
        let lines = these.iter().filter(|line| !those.contains(line)).take(8);
        lines.map(|line| format!("  {sign} {line}\n")).collect::<String>()
    };
    only('-', was, is) + &only('+', is, was)
}

/// Without the names and numbers of one seed, so that the table has a row for each reason.
fn general(words: &str) -> String {
    let plain = |word: &str| !word.contains(|c: char| c.is_ascii_digit()) && !word.starts_with('/');
    words.split(' ').filter(|word| plain(word)).collect::<Vec<_>>().join(" ")
}
