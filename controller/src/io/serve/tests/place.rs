//! A data directory as a controller is handed it, and the keys that it is not.
use super::*;

/// A data directory with everything a controller is handed, and the keys it is not.
pub(super) struct Place {
    pub(super) dir: tempfile::TempDir,
    pub(super) ceremony: Ceremony,
}

impl Place {
    pub(super) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let grants = [LineGrant { line: line(), trainer_io: Some(manifest().io_digest()) }];
        let mut seed = 0;
        let mut next = || {
            seed += 1;
            [seed; 32]
        };
        let ceremony = ceremony(&grants, &Lifetimes::default(), clock::now(), &mut next).unwrap();
        let place = Self { dir, ceremony };
        let keys = place.dir.path().join("keys");
        std::fs::create_dir(&keys).unwrap();
        for name in ["snapshot", "timestamp", "director"] {
            place.hand_over(name, &keys.join(format!("{name}.key")));
        }
        let documents = [&place.ceremony.image_root, &place.ceremony.image_targets, &place.ceremony.director_root];
        for (name, bytes) in METADATA_FILES.iter().zip(documents) {
            std::fs::write(keys.join(name), bytes).unwrap();
        }
        let runner = place.runner_path();
        std::fs::write(&runner, "#!/bin/sh\necho '{\"ok\":true,\"proof\":{\"golden\":\"sha256:".to_owned() + &"0".repeat(64) + "\"}}'\n")
            .unwrap();
        std::fs::set_permissions(&runner, std::fs::Permissions::from_mode(0o755)).unwrap();
        place
    }

    pub(super) fn runner_path(&self) -> PathBuf {
        self.dir.path().join("runner.sh")
    }

    pub(super) fn hand_over(&self, name: &str, to: &Path) {
        std::fs::write(to, self.ceremony.key(name).unwrap().to_key_file(name)).unwrap();
        std::fs::set_permissions(to, std::fs::Permissions::from_mode(0o600)).unwrap();
    }

    pub(super) fn config(&self) -> ServeConfig {
        let local = ServeConfig::local(self.dir.path().to_owned(), "demo".parse().unwrap());
        ServeConfig { open_enrolment: true, runner: Some((self.runner_path(), Vec::new())), tick_ms: 20, ..local }
    }

    pub(super) async fn start(&self) -> Handle {
        loop {
            match self.try_start(self.config()).await {
                Ok(handle) => return handle,
                // The controller that was here before lets go of its files in its own time.
                Err(ServeError::Store(StoreError::InUse(_)) | ServeError::Home(HomeError::Locked(_))) => tokio::task::yield_now().await,
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// Why it does not start; past what an earlier try still holds for a moment.
    pub(super) async fn refusal(&self, config: ServeConfig) -> String {
        loop {
            match self.try_start(config.clone()).await.unwrap_err() {
                ServeError::Store(StoreError::InUse(_)) | ServeError::Home(HomeError::Locked(_)) => tokio::task::yield_now().await,
                error => return error.to_string(),
            }
        }
    }

    pub(super) async fn try_start(&self, config: ServeConfig) -> Result<Handle, ServeError> {
        start_with(config, |_| Router::new()).await
    }

    /// Upload model, manifest and signed metadata of one version.
    pub(super) async fn publish(&self, controller: &Controller, name: &str, seq: u64) -> Manifest {
        let model = controller.blobs().put(format!("model {name}").as_bytes()).await.unwrap();
        let manifest = Manifest { version: name.parse().unwrap(), seq, model, ..manifest() };
        controller.blobs().put(&manifest.to_bytes()).await.unwrap();
        controller.upload_role("rain", &self.role(controller, &manifest), "ann").await.unwrap();
        manifest
    }

    pub(super) fn role(&self, controller: &Controller, manifest: &Manifest) -> Vec<u8> {
        self.role_with(controller, manifest, &TargetCustom::of(manifest))
    }

    pub(super) fn role_with(&self, controller: &Controller, manifest: &Manifest, custom: &TargetCustom) -> Vec<u8> {
        let expires = clock::now().plus_secs(1000);
        let current = controller.inner.repository().state.contents().role("rain").map(|d| d.claims().clone());
        let role = current.map_or_else(|| RoleBuilder::new(false, expires), |old| RoleBuilder::after(&old, false, expires));
        role.add(&manifest.model, custom).sign(&[self.ceremony.key("rain").unwrap()]).unwrap()
    }
}
