//! What the lab runs that is not packaged by Debian: one row for each binary.

/// One binary, built from a Go module that is pinned in the tree.
#[derive(Debug, Clone, Copy)]
pub(super) struct Component {
    /// Name of the binary, and of its directory in the cache.
    pub name: &'static str,
    /// Its module.
    pub module: &'static Module,
    /// The Go package to build; `.` is the module's own `main.go`.
    pub package: &'static str,
    /// Linker flags beside `-s -w`: the version that the program reports.
    pub ldflags: &'static str,
    /// The names under which the binary is started; its own if empty.
    pub programs: &'static [&'static str],
    /// Files of a Go module that are kept beside the binary: the module, and the file's path in it.
    pub keeps: &'static [(&'static str, &'static str)],
}

/// A Go module of the tree. The files are compiled in, so that the `lab` command works without a checkout beside it.
#[derive(Debug)]
pub(super) struct Module {
    /// Its files; `go.mod` and `go.sum` are always among them.
    pub files: &'static [(&'static str, &'static str)],
}

macro_rules! module {
    ($dir:literal, $($file:literal),+) => {
        Module { files: &[$(($file, include_str!(concat!("../../components/", $dir, "/", $file)))),+] }
    };
}

static KUBE: Module = module!("kube", "go.mod", "go.sum", "main.go");
static COREDNS: Module = module!("coredns", "go.mod", "go.sum", "main.go");
static HELM: Module = module!("helm", "go.mod", "go.sum");
static METALLB: Module = module!("metallb", "go.mod", "go.sum");

/// Every component, in the order in which they are built: the longest first.
pub(super) static COMPONENTS: &[Component] = &[
    Component {
        name: "kube",
        module: &KUBE,
        package: ".",
        ldflags: "-X k8s.io/component-base/version.gitVersion=v1.36.3 \
                  -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=36",
        programs: &[
            "etcd",
            "kube-apiserver",
            "kube-controller-manager",
            "kube-scheduler",
            "kube-proxy",
            "kubelet",
            "kubectl",
        ],
        keeps: &[],
    },
    Component {
        name: "agnhost",
        module: &KUBE,
        package: "k8s.io/kubernetes/test/images/agnhost",
        ldflags: "-X main.Version=2.63.0",
        programs: &[],
        keeps: &[],
    },
    Component {
        name: "coredns",
        module: &COREDNS,
        package: ".",
        ldflags: "",
        programs: &[],
        keeps: &[],
    },
    Component {
        name: "helm",
        module: &HELM,
        package: "helm.sh/helm/v4/cmd/helm",
        ldflags: "-X helm.sh/helm/v4/internal/version.version=v4.3.1",
        programs: &[],
        keeps: &[],
    },
];

/// MetalLB's programs, which only benchmarks ask for. With the controller, the manifest that its release is installed
/// with.
pub(super) static METALLB_PROGRAMS: &[Component; 2] = &[
    Component {
        name: "metallb-controller",
        module: &METALLB,
        package: "go.universe.tf/metallb/controller",
        ldflags: "",
        programs: &[],
        keeps: &[("go.universe.tf/metallb", "config/manifests/metallb-native.yaml")],
    },
    Component {
        name: "metallb-speaker",
        module: &METALLB,
        package: "go.universe.tf/metallb/speaker",
        ldflags: "",
        programs: &[],
        keeps: &[],
    },
];

impl Component {
    /// The names under which the binary is started.
    pub fn programs(&self) -> &[&'static str] {
        if self.programs.is_empty() {
            std::slice::from_ref(&self.name)
        } else {
            self.programs
        }
    }

    /// The files that decide what the binary will be: a program of another module does not contain our `main.go`.
    pub fn files(&self) -> impl Iterator<Item = &'static (&'static str, &'static str)> + use<> {
        let own = self.package == ".";
        self.module
            .files
            .iter()
            .filter(move |(name, _)| own || !name.ends_with(".go"))
    }

    /// What is built, for a person.
    pub fn describe(&self) -> String {
        match self.programs {
            [] => self.name.to_owned(),
            programs => programs.join(", "),
        }
    }

    /// Arguments of `go` that build it to `output`.
    pub fn go_args(&self, output: &str) -> Vec<String> {
        let ldflags = format!("-s -w {}", self.ldflags);
        [
            "build",
            "-trimpath",
            "-buildvcs=false",
            "-ldflags",
            ldflags.trim_end(),
            "-o",
            output,
        ]
        .into_iter()
        .chain([self.package])
        .map(String::from)
        .collect()
    }
}

impl Module {
    /// The text of one file; empty if there is none.
    pub fn file(&self, name: &str) -> &'static str {
        self.files
            .iter()
            .find(|(file, _)| *file == name)
            .map_or("", |(_, text)| text)
    }
}
