"""An image recognition service on a star of machines: one balancer in the middle, workers and a
client around it, each on a link of its own. CloudLab clones this repository onto every node and
then sets each up as its part with `scripts/install.sh`.

Instructions:
Wait until the startup services have ended, which takes some minutes because every node builds its
program. Then open port 5000 of the node `balancer` in a browser, or log in to the node `client`
and run `imagefleet-client reproduce --target http://10.10.W.1:5000`, where W is one more than the
number of workers: 10.10.5.1 for four.
"""

import geni.portal as portal
import geni.rspec.pg as pg
import geni.rspec.igext  # noqa: F401  (adds virtual machines to requests)

INSTALL = "sudo /local/repository/scripts/install.sh"
NETMASK = "255.255.255.0"
IMAGES = [
    ("urn:publicid:IDN+emulab.net+image+emulab-ops//UBUNTU22-64-STD", "Ubuntu 22.04"),
    ("urn:publicid:IDN+emulab.net+image+emulab-ops//UBUNTU24-64-STD", "Ubuntu 24.04"),
    ("urn:publicid:IDN+emulab.net+image+emulab-ops//DEBIAN12-64-STD", "Debian 12"),
]
MAX_WORKERS = 250


def parameters():
    """Asks for the parameters and checks them."""
    context = portal.context
    kind = portal.ParameterType
    context.defineParameter("workers", "Number of workers", kind.INTEGER, 4)
    context.defineParameter(
        "hardware", "Hardware type of physical nodes; virtual machines if empty", kind.STRING, "",
        longDescription="For example m510 or c220g2. Physical nodes give steadier figures.")
    context.defineParameter("image", "Operating system", kind.IMAGE, IMAGES[0], IMAGES)
    context.defineParameter(
        "capacity", "Capacity of each link in Mbit/s; unlimited if 0", kind.INTEGER, 0)
    context.defineParameter(
        "latency", "One-way delay of each link in milliseconds", kind.INTEGER, 0)
    context.defineParameter("models", "Fetch MobileNetV2 on every worker", kind.BOOLEAN, True)
    params = context.bindParameters()
    if not 1 <= params.workers <= MAX_WORKERS:
        context.reportError(portal.ParameterError(
            "Between 1 and %d workers fit in the addresses." % MAX_WORKERS, ["workers"]))
    for name in ("capacity", "latency"):
        if getattr(params, name) < 0:
            context.reportError(portal.ParameterError("Must not be negative.", [name]))
    context.verifyParameters()
    return params


def make_node(request, params, name, role, public):
    """Adds a machine that installs its role when it boots."""
    node = request.RawPC(name) if params.hardware else request.XenVM(name)
    if params.hardware:
        node.hardware_type = params.hardware
    node.disk_image = params.image
    node.routable_control_ip = public
    node.addService(pg.Execute(shell="sh", command="%s %s" % (INSTALL, role)))
    return node


def make_link(request, params, number, ends):
    """Joins two (node, host number) ends on network 10.10.number.0/24."""
    link = request.Link("link-%d" % (number - 1))
    for node, host in ends:
        interface = node.addInterface("if%d" % number)
        interface.addAddress(pg.IPv4Address("10.10.%d.%d" % (number, host), NETMASK))
        link.addInterface(interface)
    if params.capacity:
        link.bandwidth = params.capacity * 1000
    if params.latency:
        link.latency = params.latency


def main():
    params = parameters()
    request = portal.context.makeRequestRSpec()
    numbers = range(1, params.workers + 1)
    listed = "".join(" --worker 10.10.%d.1:8501" % number for number in numbers)
    balancer = make_node(request, params, "balancer", "balancer" + listed, True)
    pull = "" if params.models else " --no-pull"
    for number in numbers:
        worker = make_node(request, params, "server%d" % number, "worker" + pull, False)
        make_link(request, params, number, [(worker, 1), (balancer, 2)])
    client = make_node(request, params, "client", "client", False)
    make_link(request, params, params.workers + 1, [(client, 2), (balancer, 1)])
    portal.context.printRequestRSpec(request)


if __name__ == "__main__":
    main()
