//! Images: packed from files, imported under the very names that manifests use, and never pulled.

use std::{
    collections::BTreeMap,
    fs::{self, Metadata},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, ensure};

use super::{RUN, inside, output};
use crate::{
    debian::Root,
    tools::{self, GoProgram},
};

/// The authorities that the system knows, where Weft's programs look for them.
const ROOTS: &str = "/etc/ssl/certs/ca-certificates.crt";

const IMAGE: GoProgram = program("image", "image", ".");
const PAUSE: GoProgram = program("pause", "pause", ".");
const COREDNS: GoProgram = program("coredns", "coredns", ".");
const ECHO_BASIC: GoProgram = program(
    "echo-basic",
    "conformance",
    "sigs.k8s.io/gateway-api/conformance/echo-basic",
);
const SMI_APP: GoProgram = program("smi-app", "smi-app", ".");
const ECHO_ADVANCED: GoProgram = program("echo-advanced", "echo-advanced", ".");
const COLLECTOR: GoProgram = program("collector", "collector", ".");
const CERT_MANAGER: GoProgram = program("cert-manager", "cert-manager", ".");

const GRPC_SERVER: GoProgram = program("grpc-server", "grpc", "google.golang.org/grpc/interop/server");
const GRPC_CLIENT: GoProgram = program("grpc-client", "grpc", "google.golang.org/grpc/interop/client");
/// What others have written and the sample application consists of.
const SAMPLE: Root = Root {
    name: "sample",
    packages: &[
        "redis-server",
        "postgresql-15",
        "python3-aiosmtpd",
        "python3-psycopg2",
        "python3-redis",
        "python3-websockets",
        // Needed by what starts PostgreSQL, and there on any Debian without being asked for.
        "dash",
    ],
    without: &[
        "usr/share/doc",
        "usr/share/man",
        "usr/share/locale",
        "usr/share/i18n",
        "usr/share/fonts",
        "usr/share/perl*",
        "usr/share/sphinx*",
        "usr/share/javascript",
        "usr/bin/perl*",
        "usr/lib/*/perl*",
        "usr/lib/*/libperl*",
        "usr/lib/*/libLLVM*",
        "usr/lib/*/libz3*",
        "usr/lib/*/gconv",
        "usr/lib/postgresql/*/lib/bitcode",
        "usr/lib/postgresql/*/lib/llvmjit*",
    ],
};

/// Who runs Weft in its images, by the convention for those who are not root.
const NOBODY: &str = "65532";

/// Who the sidecar runs as: interception must tell it from the application.
const SIDECAR: &str = "1337";

/// Images of Weft's own programs: the name of each, its program, and who runs it.
const WEFT: [(&str, &str, &str); 3] = [
    ("weft.dev/operator:dev", "weft-operator", NOBODY),
    ("weft.dev/gateway:dev", "weft-gateway", NOBODY),
    ("weft.dev/sidecar:dev", "weft-sidecar", SIDECAR),
];

/// What an image is made of.
pub(super) struct Image {
    /// All the names it goes by.
    names: Vec<&'static str>,
    /// Paths in the image, and the files that are there; a folder stands for all that is in it.
    files: BTreeMap<String, PathBuf>,
    entrypoint: String,
    user: &'static str,
}

const fn program(name: &'static str, module: &'static str, package: &'static str) -> GoProgram {
    GoProgram {
        name,
        module,
        package,
        tests: false,
        link: "",
    }
}

/// Builds the programs of all images.
pub(super) fn build(profile: &str) -> anyhow::Result<Vec<Image>> {
    let echo_advanced = ECHO_ADVANCED.build()?;
    let mut images = vec![
        Image::of_one(&["weft.dev/pause:dev"], "/pause", PAUSE.build()?),
        Image::of_one(
            &["registry.k8s.io/coredns/coredns:v1.12.2"],
            "/coredns",
            COREDNS.build()?,
        ),
        Image::of_one(&["weft.dev/smi-app:dev"], "/smi-app", SMI_APP.build()?),
        Image::of_one(&["weft.dev/collector:dev"], "/collector", COLLECTOR.build()?),
        // The manifests of one release of the suite name three; the suite has the source of one.
        Image::of_one(
            &[
                "registry.k8s.io/gateway-api/echo-basic:v1.5.1",
                "registry.k8s.io/gateway-api/echo-basic:v1.6.0-dev.2",
                "registry.k8s.io/gateway-api/echo-basic:v1.6.0-dev.3",
            ],
            "/echo-basic",
            ECHO_BASIC.build()?,
        ),
        Image {
            names: vec!["registry.k8s.io/gateway-api/echo-advanced:v1.5.1"],
            files: ["/usr/local/bin/server", "/usr/local/bin/client", "/usr/local/bin/relay"]
                .map(|path| (path.to_owned(), echo_advanced.clone()))
                .into(),
            entrypoint: "/usr/local/bin/server".to_owned(),
            // The original's: interception must tell it from the proxy.
            user: "1338",
        },
    ];
    images.extend(weft(profile)?);
    Ok(images)
}

/// The image of cert-manager.
pub(super) fn cert_manager() -> anyhow::Result<Image> {
    let program = CERT_MANAGER.build()?;
    Ok(Image::of_one(&["weft.dev/cert-manager:dev"], "/cert-manager", program))
}

/// The image of the sample application: all its servers, and who calls them.
pub(super) fn sample() -> anyhow::Result<Image> {
    let scripts = Path::new("e2e/sample");
    let mut files: BTreeMap<String, PathBuf> = [
        ("/".to_owned(), SAMPLE.build()?),
        ("/grpc/server".to_owned(), GRPC_SERVER.build()?),
        ("/grpc/client".to_owned(), GRPC_CLIENT.build()?),
        ("/etc/passwd".to_owned(), scripts.join("passwd")),
    ]
    .into();
    for script in ["common.py", "serve.py", "call.py"] {
        files.insert(format!("/sample/{script}"), scripts.join(script));
    }
    Ok(Image {
        names: vec!["weft.dev/sample:dev"],
        files,
        entrypoint: "/usr/bin/python3".to_owned(),
        // As the file of users has it.
        user: "1000",
    })
}

impl Image {
    /// An image of one static program.
    fn of_one(names: &[&'static str], path: &str, program: PathBuf) -> Self {
        Self {
            names: names.to_vec(),
            files: [(path.to_owned(), program)].into(),
            entrypoint: path.to_owned(),
            user: "",
        }
    }

    /// Changes with the files, as far as the file system tells.
    fn version(&self) -> anyhow::Result<String> {
        let mut version = format!("{:?} {} {}\n", self.names, self.entrypoint, self.user);
        for (path, file) in &self.files {
            let metadata: Metadata = fs::metadata(file).with_context(|| format!("there is no {}", file.display()))?;
            version.push_str(&format!(
                "{path} {} {} {}.{}\n",
                file.display(),
                metadata.len(),
                metadata.mtime(),
                metadata.mtime_nsec()
            ));
        }
        Ok(version)
    }
}

/// Images of Weft's own programs. They are linked dynamically, as the tests' are: nothing is compiled for the images alone.
fn weft(profile: &str) -> anyhow::Result<Vec<Image>> {
    let folder = tools::build(profile)?;
    WEFT.into_iter()
        .map(|(name, program, user)| {
            let entrypoint = format!("/usr/local/bin/{program}");
            let program = folder.join(program);
            let mut files = libraries(&program)?;
            files.insert(entrypoint.clone(), program);
            files.insert(ROOTS.to_owned(), PathBuf::from(ROOTS));
            Ok(Image {
                names: vec![name],
                files,
                entrypoint,
                user,
            })
        })
        .collect()
}

/// The few libraries that a program is linked with, at the places where its loader looks for them.
fn libraries(program: &Path) -> anyhow::Result<BTreeMap<String, PathBuf>> {
    let listing = output(Command::new("ldd").arg(program))?;
    Ok(listing
        .lines()
        .filter_map(|line| {
            // Either "NAME => PATH (ADDRESS)", or for the loader "PATH (ADDRESS)".
            let path = line.rsplit("=> ").next()?.trim().split(' ').next()?;
            path.starts_with('/').then(|| (path.to_owned(), PathBuf::from(path)))
        })
        .collect())
}

/// Tests the applications that stand in for others.
pub(super) fn test_stand_ins() -> anyhow::Result<()> {
    for program in [ECHO_ADVANCED, SMI_APP] {
        let status = Command::new("go")
            .args(["test", "-count=1", "./..."])
            .current_dir(Path::new("e2e").join(program.module))
            .status()?;
        ensure!(status.success(), "go test of {} ended with {status}", program.name);
    }
    Ok(())
}

/// Imports what has changed; returns the names.
pub(super) fn import(images: &[Image]) -> anyhow::Result<Vec<&'static str>> {
    let folder = Path::new(RUN).join("images");
    fs::create_dir_all(&folder)?;
    let pack = IMAGE.build()?;
    let mut changed = Vec::new();
    for image in images {
        let version = image.version()?;
        let known = folder.join(image.names[0].replace('/', "+"));
        if fs::read_to_string(&known).is_ok_and(|known| known == version) {
            continue;
        }
        let archive = folder.join("image.tar");
        output(
            Command::new(&pack)
                .args(["-user", image.user])
                .arg(&archive)
                .arg(image.names.join(","))
                .args(
                    image
                        .files
                        .iter()
                        .map(|(path, file)| format!("{path}={}", file.display())),
                )
                .args(["--", &image.entrypoint]),
        )?;
        output(inside("ctr").args(["images", "import"]).arg(&archive))?;
        fs::remove_file(archive)?;
        fs::write(known, version)?;
        changed.extend(&image.names);
    }
    Ok(changed)
}
