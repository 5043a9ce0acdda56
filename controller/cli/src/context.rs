//! Which controller, with which token, and how to print: flags over environment over `~/.config/leeway/config.toml`.
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Deserialize;

use crate::client::Client;
use crate::failure::{During, Failure, Outcome};
use crate::output::{Asked, Style};

/// Where a controller listens unless told otherwise.
pub const DEFAULT_URL: &str = "http://127.0.0.1:8080";

/// Flags that every command takes.
#[derive(Debug, Clone, Args)]
pub struct Global {
    /// The controller's address.
    #[arg(long, global = true, env = "LEEWAY_URL", value_name = "URL")]
    pub url: Option<String>,
    /// Certificates of the authority to trust (PEM), for an address with https; `leeway serve --tls` prints where its own lies.
    #[arg(long, global = true, env = "LEEWAY_CA", value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// A token; `leeway token create` makes one, and `leeway serve` writes the admin's to admin.token in its data directory.
    #[arg(long, global = true, env = "LEEWAY_TOKEN", hide_env_values = true, value_name = "TOKEN")]
    pub token: Option<String>,
    /// Print JSON, one document (or one per line for streams).
    #[arg(long, global = true)]
    pub json: bool,
    /// No colours; also NO_COLOR, TERM=dumb, or output that is not a terminal.
    #[arg(long, global = true)]
    pub no_color: bool,
}

/// The settings file.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    url: Option<String>,
    ca: Option<PathBuf>,
    token: Option<String>,
    token_file: Option<PathBuf>,
}

/// What a command works with.
#[derive(Debug, Clone)]
pub struct Context {
    /// The controller.
    pub client: Client,
    /// How to print.
    pub style: Style,
    /// Whether to print JSON.
    pub json: bool,
}

impl Context {
    /// From the flags, the environment and the settings file.
    pub fn new(global: &Global) -> Outcome<Self> {
        let settings = settings(settings_path().as_deref())?;
        let url = global.url.clone().or(settings.url).unwrap_or_else(|| DEFAULT_URL.to_owned());
        let ca = global.ca.clone().or(settings.ca);
        let form = || Failure::new(format!("{url} is not an address of the form http://host:port or https://host:port")).code(2);
        let secured = match (url.starts_with("http://"), url.starts_with("https://"), &ca) {
            (true, ..) => None,
            (_, true, Some(ca)) => Some(std::fs::read(ca).during(format!("reading {}", ca.display()))?),
            (_, true, None) => {
                let missing = Failure::new(format!("nobody says whom to trust at {url}")).code(2);
                return Err(
                    missing.help("give the authority's certificate with --ca or LEEWAY_CA: `leeway serve --tls` prints where it lies")
                );
            }
            _ => return Err(form()),
        };
        let token = match (global.token.clone().or(settings.token), settings.token_file) {
            (Some(token), _) => Some(token),
            (None, Some(path)) => {
                Some(std::fs::read_to_string(&path).during(format!("reading the token {}", path.display()))?.trim().to_owned())
            }
            (None, None) => None,
        };
        let client = match secured {
            Some(ca) => Client::trusting(&url, token, &ca)?,
            None => Client::new(&url, token),
        };
        Ok(Self { client, style: style(global), json: global.json })
    }
}

/// How to print, from the flags and the environment.
pub fn style(global: &Global) -> Style {
    let var = |name: &str| std::env::var(name).ok();
    Style::of(&Asked {
        terminal: std::io::IsTerminal::is_terminal(&std::io::stdout()),
        no_color: global.no_color || var("NO_COLOR").is_some_and(|v| !v.is_empty()),
        term: var("TERM"),
        locale: var("LC_ALL").filter(|v| !v.is_empty()).or_else(|| var("LC_CTYPE").filter(|v| !v.is_empty())).or_else(|| var("LANG")),
        columns: var("COLUMNS").and_then(|c| c.parse().ok()),
    })
}

fn settings_path() -> Option<PathBuf> {
    let home = std::env::var_os("XDG_CONFIG_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|h| Path::new(&h).join(".config")))?;
    Some(home.join("leeway/config.toml"))
}

fn settings(path: Option<&Path>) -> Outcome<Settings> {
    let Some(path) = path.filter(|p| p.exists()) else { return Ok(Settings::default()) };
    let text = std::fs::read_to_string(path).during(format!("reading {}", path.display()))?;
    toml::from_str(&text).map_err(|e| {
        Failure::new(format!("{}: {}", path.display(), e.to_string().trim_end()))
            .code(2)
            .help("it may hold `url`, `ca`, `token` and `token_file`")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_setting_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.toml");
        std::fs::write(&path, "ulr = 'http://x'\n").unwrap();
        let failure = settings(Some(&path)).unwrap_err().to_string();
        assert!(failure.contains("ulr") && failure.contains("url"), "{failure}");
        std::fs::write(&path, "url = 'http://x:1'\n").unwrap();
        assert_eq!(settings(Some(&path)).unwrap().url.as_deref(), Some("http://x:1"));
        assert!(settings(Some(&dir.path().join("none"))).unwrap().url.is_none());
    }
}
