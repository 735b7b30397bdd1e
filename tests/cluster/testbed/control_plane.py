"""etcd, API server, controller manager, scheduler, and kwok for fake nodes and pods. I/O."""

import random
import socket
import ssl
from dataclasses import dataclass
from pathlib import Path

from processes import ClusterError, Process, fetch, run, start, wait
from programs import Programs

START_SECONDS = 300.0  # 5 on an idle machine; a busy one took over 120
LOCAL = "127.0.0.1"
SERVICE_RANGE = "10.96.0.0/16"
KUBERNETES_SERVICE = "10.96.0.1"  # the first address of the range: the API server's address for pods
KWOK_STAGES = Path(__file__).with_name("kwok.yaml")
LOWEST_PORT = 20_000
PORT_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
FAKE_NODE = "kwok.x-k8s.io/node=fake"  # kwok simulates the nodes with this annotation, and their pods


@dataclass(frozen=True)
class ControlPlane:
    """A running control plane."""

    state: Path
    programs: Programs
    url: str
    kubeconfig: Path

    def kubectl(self, *arguments: str | Path) -> str:
        """Run kubectl as administrator and return what it prints."""
        return run(self.programs["kubectl"], "--kubeconfig", self.kubeconfig, *arguments)


def start_control_plane(state: Path, programs: Programs, *, address: str = LOCAL) -> ControlPlane:
    """Start everything that needs no root; `address` is the API server's address for nodes, if there are any."""
    etcd_port, peer_port, api_port = find_free_ports(3)
    _make_certificates(state, address)
    control_plane = ControlPlane(state, programs, f"https://{LOCAL}:{api_port}", state / "kubeconfig")
    write_kubeconfig(control_plane.kubeconfig, state, control_plane.url)
    etcd = start(state, "etcd", _etcd_command(state, programs, etcd_port, peer_port))
    # The API server's readyz covers etcd too, so one wait is enough.
    api = start(state, "kube-apiserver", _api_command(state, programs, etcd_port, api_port, address))
    _wait_for_api(control_plane, etcd, api)
    client: list[str | Path] = ["--kubeconfig", control_plane.kubeconfig]
    alone = [*client, "--leader-elect=false", "--secure-port=0"]
    keys = [f"--service-account-private-key-file={state}/pki/sa.key", f"--root-ca-file={state}/pki/ca.crt"]
    manager = [programs["kube-controller-manager"], *alone, *keys, "--use-service-account-credentials"]
    start(state, "kube-controller-manager", manager)
    start(state, "kube-scheduler", [programs["kube-scheduler"], *alone])
    fake = ["--manage-all-nodes=false", f"--manage-nodes-with-annotation-selector={FAKE_NODE}"]
    # Without leases the controller manager would mark the nodes as lost within a minute.
    fake += [f"--config={KWOK_STAGES}", "--node-lease-duration-seconds=40", "--enable-crds="]
    start(state, "kwok", [programs["kwok"], *client, *fake])
    return control_plane


def _etcd_command(state: Path, programs: Programs, port: int, peer_port: int) -> list[str | Path]:
    client, peer = f"http://{LOCAL}:{port}", f"http://{LOCAL}:{peer_port}"
    return [
        programs["etcd"],
        f"--data-dir={state}/etcd",
        f"--listen-client-urls={client}",
        f"--advertise-client-urls={client}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=default={peer}",
        "--unsafe-no-fsync",  # this data need not survive a power cut
    ]


def _api_command(state: Path, programs: Programs, etcd_port: int, port: int, address: str) -> list[str | Path]:
    pki = state / "pki"
    with_nodes = address != LOCAL
    return [
        programs["kube-apiserver"],
        f"--etcd-servers=http://{LOCAL}:{etcd_port}",
        f"--secure-port={port}",
        # Without nodes all clients are local, and the server refuses to announce 127.0.0.1.
        *([f"--advertise-address={address}"] if with_nodes else [f"--bind-address={LOCAL}"]),
        *([] if with_nodes else ["--endpoint-reconciler-type=none"]),
        f"--tls-cert-file={pki}/api.crt",
        f"--tls-private-key-file={pki}/api.key",
        f"--client-ca-file={pki}/ca.crt",
        f"--service-account-key-file={pki}/sa.pub",
        f"--service-account-signing-key-file={pki}/sa.key",
        "--service-account-issuer=https://kubernetes.default.svc",
        "--authorization-mode=Node,RBAC",
        f"--service-cluster-ip-range={SERVICE_RANGE}",
        "--allow-privileged=true",
        f"--kubelet-client-certificate={pki}/admin.crt",
        f"--kubelet-client-key={pki}/admin.key",
        "--kubelet-preferred-address-types=InternalIP",  # a node's name has no DNS entry
    ]


def _wait_for_api(control_plane: ControlPlane, etcd: Process, api: Process) -> None:
    pki = control_plane.state / "pki"
    context = ssl.create_default_context(cafile=pki / "ca.crt")
    context.load_cert_chain(pki / "admin.crt", pki / "admin.key")

    def missing() -> str | None:
        return fetch(f"{control_plane.url}/readyz", context) if etcd.is_alive() else "etcd ended"

    wait(control_plane.state, "starting the API server", seconds=START_SECONDS, until=missing, process=api)


def wait_for_nodes(control_plane: ControlPlane, names: list[str], *, process: Process) -> None:
    """Wait until the nodes are Ready; `process` is the program that makes them so."""

    def missing() -> str | None:
        nodes = [f"node/{name}" for name in names]
        try:
            control_plane.kubectl("wait", "--for=condition=Ready", *nodes, "--timeout=1s")
        except ClusterError as error:
            return str(error)
        return None

    phase = f"waiting for {', '.join(names)} to be Ready"
    wait(control_plane.state, phase, seconds=START_SECONDS, until=missing, process=process)


def _make_certificates(state: Path, address: str) -> None:
    pki = state / "pki"
    pki.mkdir(mode=0o700)
    authority = pki / "ca"
    _openssl(
        "req", "-x509", *_new_key(authority), "-subj", "/CN=testcluster", "-days", "30", "-out", f"{authority}.crt"
    )
    _openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", f"{pki}/sa.key")
    _openssl("ec", "-in", f"{pki}/sa.key", "-pubout", "-out", f"{pki}/sa.pub")
    service = [f"DNS:{name}" for name in ("kubernetes", "kubernetes.default", "kubernetes.default.svc", "localhost")]
    addresses = [f"IP:{each}" for each in dict.fromkeys((LOCAL, address, KUBERNETES_SERVICE))]
    _sign(pki, "api", "/CN=kube-apiserver", ",".join(service + addresses))
    _sign(pki, "admin", "/O=system:masters/CN=admin", "DNS:admin")


def _sign(pki: Path, name: str, subject: str, names: str) -> None:
    key = pki / name
    signed_by = ["-CA", f"{pki}/ca.crt", "-CAkey", f"{pki}/ca.key", "-days", "30", "-x509"]
    extension = ["-addext", f"subjectAltName={names}", "-addext", "basicConstraints=critical,CA:false"]
    _openssl("req", *_new_key(key), "-subj", subject, *signed_by, *extension, "-out", f"{key}.crt")


def _new_key(path: Path) -> list[str]:
    return ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", f"{path}.key"]


def _openssl(*arguments: str) -> None:
    try:
        run("openssl", *arguments)
    except FileNotFoundError:
        raise ClusterError("certificates: no openssl on this machine (Debian: openssl)") from None


def write_kubeconfig(path: Path, state: Path, url: str) -> None:
    """Write the administrator's kubeconfig for the API server at `url`."""
    pki = state / "pki"
    path.write_text(f"""\
apiVersion: v1
kind: Config
clusters: [{{name: test, cluster: {{server: "{url}", certificate-authority: "{pki}/ca.crt"}}}}]
users: [{{name: admin, user: {{client-certificate: "{pki}/admin.crt", client-key: "{pki}/admin.key"}}}}]
contexts: [{{name: test, context: {{cluster: test, user: admin}}}}]
current-context: test
""")


def find_free_ports(number: int) -> list[int]:
    """Return distinct free ports below those that the kernel gives to outgoing connections.

    One of the latter may be taken while a program is killed and started anew: often by the connection of a client that
    tries to reach it.
    """
    low = int(PORT_RANGE.read_text().split()[0]) if PORT_RANGE.exists() else 32768
    candidates = random.sample(range(LOWEST_PORT, low), min(1000, low - LOWEST_PORT))
    found: list[int] = []
    for port in candidates:
        if len(found) < number and _is_free(port):
            found.append(port)
    if len(found) < number:
        raise ClusterError(f"ports: no {number} free ones between {LOWEST_PORT} and {low}")
    return found


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind((LOCAL, port))
        except OSError:
            return False
    return True
