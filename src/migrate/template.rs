//! Command templates of a side: how to execute in its container, start it and stop it, given in full or by
//! the name of an engine. Never involves a shell.

/// The commands of one side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    /// Prefix of the commands that execute freeze in the container.
    pub exec: Vec<String>,
    /// Starts the container.
    pub start: Option<Vec<String>>,
    /// Stops the container.
    pub stop: Option<Vec<String>>,
}

impl Template {
    /// Parses a full command, such as `kubectl -n shop exec redis-0 --`, or a short form: `docker:`,
    /// `podman:`, `kubectl:` or `oc:`, then options of the engine, then the container or workload.
    ///
    /// # Errors
    /// One sentence.
    pub fn parse(text: &str) -> Result<Self, String> {
        if let Some((engine, rest)) = text.split_once(':')
            && let engine = engine.trim_start()
            && ["docker", "podman", "kubectl", "oc"].contains(&engine)
        {
            return short(engine, &words(rest)?)
                .ok_or_else(|| format!("{text:?} does not name a container: write `{engine}:NAME`"));
        }
        Ok(Self { exec: words(text)?, start: None, stop: None })
    }
}

/// Splits a command into words by the shell's quoting rules.
///
/// # Errors
/// One sentence.
pub fn words(text: &str) -> Result<Vec<String>, String> {
    match shlex::split(text) {
        None => Err(format!("{text:?} has an unclosed quote")),
        Some(words) if words.is_empty() => Err("it is empty".to_owned()),
        Some(words) => Ok(words),
    }
}

fn short(engine: &str, rest: &[String]) -> Option<Template> {
    let (name, options) = rest.split_last().filter(|(name, _)| !name.starts_with('-'))?;
    let command = |after: &[&str]| {
        let words = std::iter::once(engine).chain(options.iter().map(String::as_str)).chain(after.iter().copied());
        words.map(str::to_owned).collect::<Vec<_>>()
    };
    if ["docker", "podman"].contains(&engine) {
        let (start, stop) = (command(&["start", name]), command(&["stop", name]));
        return Some(Template { exec: command(&["exec", name]), start: Some(start), stop: Some(stop) });
    }
    // A pod without a controller can only be created and deleted, not started and stopped.
    let scale = |replicas| {
        let kind = name.split_once('/')?.0;
        let is_scaled = ["deploy", "deployment", "deployments", "sts", "statefulset", "statefulsets"].contains(&kind);
        is_scaled.then(|| command(&["scale", name, replicas]))
    };
    let (start, stop) = (scale("--replicas=1"), scale("--replicas=0"));
    Some(Template { exec: command(&["exec", name, "--"]), start, stop })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> [String; 3] {
        let Template { exec, start, stop } = Template::parse(text).unwrap();
        [exec, start.unwrap_or_default(), stop.unwrap_or_default()].map(|words| words.join(" "))
    }

    #[test]
    fn a_command_is_taken_as_it_is() {
        let text = "docker -H ssh://root@edge exec 'a b'";
        let expected = ["docker", "-H", "ssh://root@edge", "exec", "a b"].map(str::to_owned).to_vec();
        assert_eq!(Template::parse(text), Ok(Template { exec: expected, start: None, stop: None }));
    }

    #[test]
    fn an_engine_fills_in_the_rest() {
        assert_eq!(lines("docker:shop"), ["docker exec shop", "docker start shop", "docker stop shop"]);
        assert_eq!(lines("podman: --remote shop")[0], "podman --remote exec shop");
        assert_eq!(
            lines("kubectl: --context edge -n shop deploy/redis"),
            [
                "kubectl --context edge -n shop exec deploy/redis --",
                "kubectl --context edge -n shop scale deploy/redis --replicas=1",
                "kubectl --context edge -n shop scale deploy/redis --replicas=0"
            ]
        );
        assert_eq!(lines("oc:redis-0"), ["oc exec redis-0 --", "", ""]);
        assert_eq!(lines("kubectl:pod/redis-0")[1], "");
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        assert_eq!(Template::parse("docker:").unwrap_err(), "it is empty");
        assert_eq!(
            Template::parse("docker:-H x --tls").unwrap_err(),
            "\"docker:-H x --tls\" does not name a container: write `docker:NAME`"
        );
        assert_eq!(Template::parse("ssh 'host").unwrap_err(), "\"ssh 'host\" has an unclosed quote");
    }
}
