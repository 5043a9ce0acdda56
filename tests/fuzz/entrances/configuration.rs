//! The controller's and the agent's configurations.
use leeway_agent::config::Config as AgentConfig;
use leeway_controller::config::Config;

/// A configuration is taken or refused with a sentence, whatever it holds.
pub fn enter(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Err(error) = Config::parse(text) {
        assert!(!error.to_string().is_empty());
    }
    if let Err(error) = AgentConfig::parse(text) {
        assert!(!error.to_string().is_empty());
    }
}

/// What honest configurations look like.
pub fn honest() -> Vec<(String, Vec<u8>)> {
    let controller = "tenant = \"plant-7\"\ndata = \"/var/lib/leeway\"\n[http]\nlisten = \"0.0.0.0:80\"\npublic_url = \"https://fleet.example\"\n[mqtt]\nurl = \"mqtt://controller@broker.example:8883\"\n[enrolment]\nopen = true\n[planner.settings.windows]\nmax_inferences = 50\nmax_ms = 1000\n[training.dataset]\nmin_rows = 5\n";
    let agent = "data_dir = \"/srv/leeway\"\nlog = \"debug\"\n[labels]\nregion = \"coast\"\n[runner]\nargs = [\"runner\"]\ntcp = \"127.0.0.1:9000\"\n[outbox]\nmax_bytes = 1_000_000\n[timing]\nhang_ms = 5_000\n[network]\nbroker = \"broker.example:1883\"\nartifacts = \"http://127.0.0.1:8080/\"\n";
    vec![("controller.toml".to_owned(), controller.into()), ("agent.toml".to_owned(), agent.into())]
}
