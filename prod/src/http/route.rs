//! A request's path, parsed once. What it cannot parse is nothing: no path of a request ever reaches the file system.

use refrain_core::names::RepoName;

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Route {
    Health,
    Ready,
    Status,
    Metrics,
    /// `GET /<name>.git/info/refs?service=…`
    Advertise(RepoName, Service),
    /// `POST /<name>.git/git-upload-pack` or `…/git-receive-pack`
    Rpc(RepoName, Service),
    /// A repository's files, as the old protocol reads them.
    Dumb,
    None,
}

/// Git's two programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Service {
    UploadPack,
    ReceivePack,
}

impl Service {
    pub(super) fn name(self) -> &'static str {
        match self {
            Service::UploadPack => "upload-pack",
            Service::ReceivePack => "receive-pack",
        }
    }

    fn parse(text: &str) -> Option<Service> {
        match text {
            "git-upload-pack" => Some(Service::UploadPack),
            "git-receive-pack" => Some(Service::ReceivePack),
            _ => None,
        }
    }
}

/// Names need no escapes, so a path with one names nothing.
pub(super) fn route(path: &str, query: Option<&str>) -> Route {
    match path {
        "/healthz" => return Route::Health,
        "/readyz" => return Route::Ready,
        "/status" => return Route::Status,
        "/metrics" => return Route::Metrics,
        _ => {}
    }
    let Some(path) = path.strip_prefix('/') else { return Route::None };
    if let Some(name) = path.strip_suffix("/info/refs") {
        let Some(repo) = repo(name) else { return Route::None };
        let mut pairs = query.unwrap_or_default().split('&').filter_map(|pair| pair.split_once('='));
        let service = pairs.find(|(key, _)| *key == "service").and_then(|(_, value)| Service::parse(value));
        return service.map_or(Route::Dumb, |service| Route::Advertise(repo, service));
    }
    let Some((name, last)) = path.rsplit_once('/') else { return Route::None };
    match (repo(name), Service::parse(last)) {
        (Some(repo), Some(service)) => Route::Rpc(repo, service),
        _ => Route::None,
    }
}

/// With or without `.git`: a name never ends in it.
fn repo(text: &str) -> Option<RepoName> {
    RepoName::parse(text.strip_suffix(".git").unwrap_or(text)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repository_is_reached_with_and_without_its_ending() {
        let name = RepoName::parse("group/r.x").expect("a name");
        let advertise = Route::Advertise(name.clone(), Service::UploadPack);
        assert_eq!(route("/group/r.x.git/info/refs", Some("a=b&service=git-upload-pack")), advertise);
        assert_eq!(route("/group/r.x/info/refs", Some("service=git-upload-pack")), advertise);
        assert_eq!(route("/group/r.x.git/git-receive-pack", None), Route::Rpc(name, Service::ReceivePack));
        assert_eq!(route("/r.git/info/refs", None), Route::Dumb);
    }

    #[test]
    fn no_trick_with_a_path_names_anything() {
        for name in [
            "..",
            "../r",
            "r/../s",
            "r/..",
            "./r",
            "/etc",
            "//r",
            "r//s",
            "%2e%2e",
            "r%2fs",
            "..%2fr",
            "r%00",
            "r\\s",
            ".git",
            "r.git.git",
            "-r",
            "r.lock",
            "",
            "r.git/r.git",
            "~root",
            "r;s",
            "a/b/c/d/e/f/g/h/i",
        ] {
            for suffix in ["", ".git"] {
                let path = format!("/{name}{suffix}");
                assert_eq!(route(&format!("{path}/info/refs"), Some("service=git-upload-pack")), Route::None, "{path}");
                assert_eq!(route(&format!("{path}/git-receive-pack"), None), Route::None, "{path}");
            }
        }
        for path in ["/r.git/HEAD", "/r.git/objects/info/packs", "/r.git", "/", "", "*", "/r.git/git-upload-archive"] {
            assert_eq!(route(path, None), Route::None, "{path}");
        }
    }
}
