"""Flower's class for each strategy that a protocol can name, made to wait for all sites.

Source: `flwr.serverapp.strategy`, Flower 1.41; contract tests hold the names and what they mean.
"""

from typing import TypedDict, assert_never

from flwr.serverapp import strategy as flower
from flwr.serverapp.strategy import Strategy

from fedhealth.errors import ConfigInvalid
from fedhealth.study import strategies
from fedhealth.study.protocol import Study


class _Nodes(TypedDict):
    min_train_nodes: int
    min_evaluate_nodes: int
    min_available_nodes: int


def strategy_for(study: Study, sites: int) -> Strategy:
    """Return the Flower strategy that a study names, made to wait for all `sites`.

    Raises:
        ConfigInvalid: they are too few for it.
    """
    named = study.strategy
    if sites < (least := named.least_sites(sites)):
        raise ConfigInvalid(
            f"study '{study.name}' combines by '{named.kind}', which needs more sites",
            got=str(sites),
            wanted=f"at least {least}",
            next_step="Invite more sites, or name another strategy: docs/protocol.md says what each needs.",
        )
    return _made(named, sites)


def _made(named: strategies.Strategy, sites: int) -> Strategy:
    nodes = _Nodes(min_train_nodes=sites, min_evaluate_nodes=sites, min_available_nodes=sites)
    match named:
        case strategies.FedAvg():
            return flower.FedAvg(**nodes)
        case strategies.FedAvgM():
            return flower.FedAvgM(**nodes, server_momentum=named.server_momentum)
        case strategies.FedAdam():
            return flower.FedAdam(
                **nodes, eta=named.server_learning_rate, beta_1=named.beta_1, beta_2=named.beta_2, tau=named.tau
            )
        case strategies.FedYogi():
            return flower.FedYogi(
                **nodes, eta=named.server_learning_rate, beta_1=named.beta_1, beta_2=named.beta_2, tau=named.tau
            )
        case strategies.FedAdagrad():
            return flower.FedAdagrad(**nodes, eta=named.server_learning_rate, tau=named.tau)
        case strategies.FedMedian():
            return flower.FedMedian(**nodes)
        case strategies.FedTrimmedAvg():
            return flower.FedTrimmedAvg(**nodes, beta=named.cut_share(sites))
        case strategies.Krum():
            return flower.Krum(**nodes, num_malicious_nodes=named.malicious_sites)
        case strategies.MultiKrum():
            return flower.MultiKrum(
                **nodes, num_malicious_nodes=named.malicious_sites, num_nodes_to_select=named.selected_sites
            )
        case strategies.Bulyan():
            return flower.Bulyan(**nodes, num_malicious_nodes=named.malicious_sites)
        case _:
            assert_never(named)
