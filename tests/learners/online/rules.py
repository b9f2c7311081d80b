"""The rules of families, in plain loops over atoms, from the equations of the page of mathematics
beside `family.py`.
"""

import itertools
from typing import NamedTuple

import numpy as np
from numpy.linalg import norm


def unit(vector: np.ndarray) -> np.ndarray:
    return vector / norm(vector)


class Factor(NamedTuple):
    common: np.ndarray
    rest: np.ndarray
    loadings: np.ndarray

    def remains(self, place: int) -> bool:
        return bool(norm(self.rest[place]) > 0.1)


def common_factor(rays: np.ndarray) -> Factor:
    products = rays @ rays.T
    squares: list[list[float]] = [[] for _ in rays]
    for j, k, m in itertools.permutations(range(len(rays)), 3):
        squares[j].append(products[j, k] * products[j, m] / max(products[k, m], 0.05))
    means = [np.mean(row or [0]) for row in squares]
    loadings = np.clip(means, 0.01, 1) ** 0.5
    common = unit(np.linalg.solve(products + 0.01 * np.eye(len(rays)), loadings) @ rays)
    return Factor(common, rays - np.outer(rays @ common, common), loadings)


class Repair:
    """Atoms, a row each, that the four rules move one after the other. `moved` has the number of
    the rule that moved each, or zero. Tables have the atom i in row i, and j in column j.
    """

    def __init__(self, atoms: np.ndarray, codes: np.ndarray, number: int):
        self.atoms = np.array(atoms, float)
        self.every = range(len(atoms))
        self.moved = np.zeros(len(atoms), int)
        self.twice: list[int] = []
        on = (codes > 0).astype(float)
        self.together = on.T @ on
        self.products = codes.T @ codes
        self.uses = on.sum(axis=0)
        self.sums = codes.sum(axis=0)
        self.energy = (codes**2).sum(axis=0)
        # P(i | j), and the mean code of i beside j.
        self.share = self.together / np.maximum(self.uses, 1)
        self.code = self.products / np.maximum(self.share * self.sums, 1e-9)
        self.size = np.diag(self.code)
        most = (1 - 0.8) * (1 - self.uses[:, None] / number)
        self.includes = (1 - self.share < most) & (self.uses >= 6)
        self.split_merged_parents()
        self.add_missing_parents()
        self.turn_pairs()
        self.part_from_parents()

    @property
    def cosines(self) -> np.ndarray:
        return self.atoms @ self.atoms.T

    @property
    def coherent(self) -> float:
        return max(0.3, 4 / self.atoms.any(axis=0).sum() ** 0.5)

    def parent(self, j: int) -> int | None:
        fits = np.flatnonzero(self.includes[:, j] & (self.uses > 1.02 * self.uses[j]))
        return min(fits.tolist(), key=lambda i: self.uses[i], default=None)

    def alike(self, least: float) -> np.ndarray:
        judged = (self.uses >= 6) & (self.moved == 0)
        apart = np.maximum(self.share, self.share.T) < 0.5
        others = ~np.eye(len(self.atoms), dtype=bool)
        return others & np.outer(judged, judged) & apart & (self.cosines > least)

    def short(self) -> np.ndarray:
        """Whether the ray of j beside i is no longer than that of i."""
        beside = self.code[:, :, None] * self.atoms[:, None]
        rays = beside + self.size[:, None] * self.atoms
        return norm(rays, axis=2) < 1.15 * self.size[:, None]

    def put(self, moves: dict[int, np.ndarray], rule: int) -> None:
        for place, atom in moves.items():
            self.atoms[place] = unit(atom)
            self.moved[place] = rule

    def idle(self, busy: set[int]) -> list[int]:
        """Idle atoms that are not busy, the one of least energy last."""
        idle = self.energy < 0.1 * np.median(self.energy[self.energy > 0])
        free = [j for j in self.every if idle[j] and j not in busy]
        free = [j for j in free if not self.moved[j]]
        return sorted(free, key=lambda j: self.energy[j])[::-1]

    def split_merged_parents(self) -> None:
        parents = [self.parent(j) for j in self.every]
        alike = self.alike(0.1)
        children: list[list[int]] = [[] for _ in self.every]
        for j, parent in enumerate(parents):
            siblings = [k for k in self.every if parents[k] == parent]
            if parent is not None and (len(siblings) == 1 or alike[j, siblings].any()):
                children[parent].append(j)
        splits = {}
        for v in self.every:
            factor = self.split(v, children[v])
            if factor:
                splits[v] = factor
        # A parent is not split together with its own parent.
        splits = {v: splits[v] for v in splits if parents[v] not in splits}
        free = self.idle({*splits}.union(*(children[v] for v in splits)))
        moves = {}
        for v, factor in splits.items():
            has_own_ray = len(factor.rest) > len(children[v])
            takes = has_own_ray and factor.remains(-1) and len(free) > 0
            if len(children[v]) == 1 and not takes:
                continue
            if takes:
                moves[free.pop()] = factor.rest[-1]
            moves[v] = factor.common
            for place, child in enumerate(children[v]):
                if factor.remains(place):
                    moves[child] = factor.rest[place]
        self.put(moves, 1)

    def split(self, v: int, children: list[int]) -> Factor | None:
        """The common factor of the rays of children and parent, if these are to be split."""
        if not children:
            return None
        times = self.together[v, children].sum()
        inside = self.together[v, children] @ self.code[v, children]
        outside = (self.sums[v] - inside) / max(self.uses[v] - times, 1)
        smaller = inside / times < (1 - 0.15) * outside
        is_alone = 1 - self.uses[children].sum() / self.uses[v] > 0.05
        rays = self.energy[children, None] * self.atoms[children]
        rays += np.outer(self.products[v, children], self.atoms[v])
        if is_alone:
            rays = np.vstack([rays, self.atoms[v]])
        factor = common_factor(rays / norm(rays, axis=1, keepdims=True))
        if is_alone and factor.loadings[-1] > 0.93:
            return None
        if len(children) == 1:
            large = self.size[v] > np.median(self.size[self.uses >= 6])
            often = is_alone and times > 0.4 * self.uses[v]
            turns = self.short()[v, children[0]]
            return factor if often and smaller and large and not turns else None
        pairs = itertools.combinations(children, 2)
        shared = np.mean([self.cosines[pair] for pair in pairs])
        fits = len(rays) >= 3 and shared > 0.1 and (smaller or not is_alone)
        return factor if fits else None

    def add_missing_parents(self) -> None:
        alike = self.alike(self.coherent)
        central = (self.cosines * alike).sum(axis=0)
        first = []
        for j in self.every:
            nearby = np.flatnonzero(alike[j] | (np.arange(len(alike)) == j))
            first.append(int(nearby[np.argmax(central[nearby])]))
        factors = {}
        members = {}
        for leader in self.every:
            members[leader] = [j for j in self.every if first[j] == leader]
            if first[leader] == leader:
                factor = common_factor(self.atoms[members[leader]])
                if np.mean(factor.loadings) > 0.6:
                    factors[leader] = factor
        in_family = {j for leader in factors for j in members[leader]}
        parents: dict[int, int] = {}
        orphans = []
        for leader, factor in factors.items():
            cosine = np.where(self.moved, -1, self.atoms @ factor.common)
            near = int(np.argmax(cosine))
            fits = near not in in_family or near in members[leader]
            if cosine[near] <= 0.9:
                orphans.append(leader)
            elif fits and near not in parents.values():
                parents[leader] = near
        free = self.idle({*parents.values()} | in_family)
        for leader in orphans[: len(free)]:
            parents[leader] = free.pop()
        moves = {}
        for leader in parents:
            for place, j in enumerate(members[leader]):
                if factors[leader].remains(place):
                    moves[j] = factors[leader].rest[place]
        for leader, place in parents.items():
            moves[place] = factors[leader].common
        self.put(moves, 2)

    def turn_pairs(self) -> None:
        """Row v and column u, which are at most the partners of each other."""
        turns = self.includes & (self.uses[:, None] >= self.uses)
        turns &= (self.share.T > 0.4) & self.short()
        free = np.outer(self.moved == 0, self.moved == 0)
        np.fill_diagonal(free, False)
        both = self.share * self.share.T
        best = np.argmax(np.where((turns | turns.T) & free, both, 0), axis=1)
        moves = {}
        for v, u in enumerate(best):
            # Of two that may both be turned the first becomes the base.
            turned = turns[v, u] and not (turns[u, v] and u < v)
            if turned and free[v, u] and best[u] == v:
                base = self.energy[u] * self.atoms[u]
                base = unit(base + self.products[u, v] * self.atoms[v])
                rest = self.atoms[v] - (base @ self.atoms[v]) * base
                if norm(rest) > 0.1:
                    moves |= {int(u): base, v: rest}
        self.put(moves, 3)

    def part_from_parents(self) -> None:
        """Row p and column c."""
        size = self.size
        lies = self.alike(self.coherent) & (size[:, None] < size)
        lies &= self.cosines * size > 0.75 * size[:, None]
        lies &= self.energy[:, None] > 0.3 * self.energy
        # A parent does not move itself.
        lies[lies.any(axis=0)] = False
        moves = {}
        for child in np.flatnonzero(lies.any(axis=0)).tolist():
            parent = self.atoms[np.argmax(np.where(lies[:, child], size, -1))]
            rest = self.atoms[child] - (parent @ self.atoms[child]) * parent
            if norm(rest) < 0.5:
                self.twice.append(child)
            else:
                moves[child] = rest
        self.put(moves, 4)
