"""The control verbs by name, with the messages that they take and give."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

from google.protobuf.message import Message

from collab.codec.pb import control_pb2 as pb


class Verb(NamedTuple):
    """Request and reply of one verb."""

    request: type[Message]
    reply: type[Message]


VERBS: Final[Mapping[str, Verb]] = MappingProxyType(
    {
        "Describe": Verb(pb.DescribeRequest, pb.DescribeReply),
        "Probe": Verb(pb.ProbeRequest, pb.ProbeReply),
        "BlobStatus": Verb(pb.BlobStatusRequest, pb.BlobStatusReply),
        "PutBlob": Verb(pb.PutBlobRequest, pb.PutBlobReply),
        "DropBlobs": Verb(pb.DropBlobsRequest, pb.DropBlobsReply),
        "Reserve": Verb(pb.ReserveRequest, pb.ReserveReply),
        "Prepare": Verb(pb.PrepareRequest, pb.PrepareReply),
        "Commit": Verb(pb.EpochRequest, pb.EpochReply),
        "Abort": Verb(pb.EpochRequest, pb.EpochReply),
        "Retire": Verb(pb.EpochRequest, pb.EpochReply),
        "Unload": Verb(pb.EpochRequest, pb.EpochReply),
        "GetPlan": Verb(pb.GetPlanRequest, pb.GetPlanReply),
        "Lease": Verb(pb.LeaseRequest, pb.LeaseReply),
        "Status": Verb(pb.StatusRequest, pb.StatusReply),
        "Profile": Verb(pb.ProfileRequest, pb.ProfileReply),
        "ProfileCodecs": Verb(pb.ProfileCodecsRequest, pb.ProfileCodecsReply),
        "ProbePeer": Verb(pb.ProbePeerRequest, pb.ProbePeerReply),
        "Drain": Verb(pb.DrainRequest, pb.DrainReply),
        "PutRevocations": Verb(pb.PutRevocationsRequest, pb.PutRevocationsReply),
        "TakeReports": Verb(pb.TakeReportsRequest, pb.TakeReportsReply),
        "GetBlob": Verb(pb.GetBlobRequest, pb.GetBlobReply),
        "DescribeTraining": Verb(pb.DescribeTrainingRequest, pb.DescribeTrainingReply),
        "OfferTraining": Verb(pb.OfferTrainingRequest, pb.OfferTrainingReply),
        "BeginTraining": Verb(pb.BeginTrainingRequest, pb.BeginTrainingReply),
        "TrainingStatus": Verb(pb.TrainingStatusRequest, pb.TrainingStatusReply),
        "EndTraining": Verb(pb.EndTrainingRequest, pb.EndTrainingReply),
        "MaskTraining": Verb(pb.MaskTrainingRequest, pb.MaskTrainingReply),
        "PutTrial": Verb(pb.PutTrialRequest, pb.PutTrialReply),
        "Observe": Verb(pb.ObserveRequest, pb.ObserveReply),
        "GetTrial": Verb(pb.GetTrialRequest, pb.GetTrialReply),
        "Condition": Verb(pb.ConditionRequest, pb.ConditionReply),
        "Feedback": Verb(pb.FeedbackRequest, pb.FeedbackReply),
        "GetReleaseFile": Verb(pb.GetReleaseFileRequest, pb.GetReleaseFileReply),
    }
)
"""Every verb of ``control.proto`` that nodes serve."""

DRAINING: Final = "Draining"
"""What requesters serve: a node tells them that it drains."""
